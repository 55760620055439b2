import assert from "node:assert/strict";
import { resolvePrecision } from "../../model/precision.ts";
import { device } from "../kernels/harness.ts";

Deno.test("resolvePrecision() returns f16 for auto on a GPU with shader-f16, and else the given precision", () => {
  const of = (isCpu: boolean, f16: boolean, asked: "auto" | "f16" | "f32") =>
    resolvePrecision({ ...device, isCpu, features: new Set(f16 ? ["shader-f16"] : []) }, asked);
  assert.equal(of(false, true, "auto"), "f16");
  assert.equal(of(false, false, "auto"), "f32");
  assert.equal(of(true, true, "auto"), "f32"); // on a CPU f16 saves no time
  assert.equal(of(true, true, "f16"), "f16");
  assert.equal(of(false, true, "f32"), "f32");
});
