import assert from "node:assert/strict";
import { join } from "node:path";
import type { ProviderFacts } from "../../commands/probe.ts";
import { device } from "../kernels/harness.ts";
import { root, task } from "./task.ts";

/** What doctor prints, as JSON, on a machine with an adapter and a Dawn that doctored.ts knows. */
async function doctor(adapter: string, { dawn = "absent", args = ["--json"] } = {}) {
  const script = join(root, "tests", "commands", "doctored.ts");
  const { code, stdout } = await task("doctor", [adapter, dawn, ...args], { script });
  return { code, stdout, ...args.includes("--json") ? JSON.parse(stdout) : {} };
}

/** What the process of Dawn prints on a GPU with tensor cores. */
const FACTS: ProviderFacts = {
  adapter: "some gpu",
  isCpu: false,
  backend: "Dawn on Vulkan",
  features: ["shader-f16", "subgroups"],
  subgroupSize: 32,
  matrixShapes: [{ rows: 16, columns: 16, depth: 16, input: "f16", result: "f32" }],
  largestBuffer: 2 ** 30,
  largestBinding: 2 ** 30,
  workgroup: { invocations: 256, bytes: 2 ** 15 },
  auto: "preset mini",
};

Deno.test("doctor describes the adapter, and has nothing to fix on a GPU with f16", async () => {
  const { code, native, dawn, auto, gpus, fixes } = await doctor("gpu+f16");
  const { limits } = device.gpu;
  assert.equal(code, 0);
  assert.equal(native.adapter, "Some adapter");
  assert.equal(native.subgroupSize, undefined);
  assert.equal(native.largestBuffer, limits.maxBufferSize);
  assert.equal(native.largestBinding, device.maxBindingBytes);
  assert.deepEqual(native.workgroup, {
    invocations: limits.maxComputeInvocationsPerWorkgroup,
    bytes: limits.maxComputeWorkgroupStorageSize,
  });
  assert.deepEqual([dawn, auto], [null, "native"]);
  assert.deepEqual(gpus, Deno.build.os === "linux" ? ["0000:1b:00.0", "0000:43:00.0"] : []);
  if (!device.features.has("shader-f16")) return; // cannot be pretended
  assert.ok(native.features.includes("shader-f16"));
  assert.match(native.auto, /^preset mini.*; precision f16$/);
  assert.deepEqual(fixes, []);
});

Deno.test("doctor says how to fix what a machine lacks", async () => {
  const f16 = /^f16 is missing/,
    cpu = /^training runs on the CPU/,
    none = /^install a graphics driver: \S/;
  const cases: [adapter: string, code: number, fixes: RegExp[]][] = [
    ["none", 1, [none]],
    ["gpu", 0, [f16]],
    ["cpu", 0, [cpu, f16]],
  ];
  for (const [adapter, expected, patterns] of cases) {
    const { code, native, fixes } = await doctor(adapter);
    assert.equal(code, expected, adapter);
    assert.equal(fixes.length, patterns.length, adapter);
    for (const [i, pattern] of patterns.entries()) assert.match(fixes[i]!, pattern, adapter);
    if (adapter === "none") assert.match(native.error, /^Cannot open a device as /);
    else {
      assert.equal(native.isCpu, adapter === "cpu");
      assert.match(native.auto, /^preset (nano|mini).*; precision f32$/);
    }
  }
});

Deno.test("doctor says what Dawn offers, also if native WebGPU or Dawn does not work", async () => {
  const works = await doctor("none", { dawn: JSON.stringify(FACTS) });
  assert.deepEqual(works.dawn, FACTS);
  assert.deepEqual([works.code, works.auto], [0, "dawn"]);
  const crash = await doctor("gpu+f16", { dawn: "crash" });
  assert.deepEqual(crash.dawn, { error: "Dawn ended its process with SIGSEGV" });
  assert.deepEqual([crash.code, crash.auto], [0, "native"]);
  assert.match(crash.fixes.at(-1), /^Dawn does not work here; .*--gpu native/);
  const late = await doctor("gpu+f16", { dawn: "late" });
  assert.deepEqual(late.dawn, { error: "Dawn did not answer within 60 s" });
  const matrixShapes = [{ ...FACTS.matrixShapes[0]!, rows: 8 }]; // which no kernel uses
  const without = await doctor("gpu+f16", { dawn: JSON.stringify({ ...FACTS, matrixShapes }) });
  assert.match(without.fixes.at(-1), /no tensor cores that the kernels can use/);
  assert.equal(without.auto, "native");
});

Deno.test("doctor prints both providers beside each other, and what to type for Dawn", async () => {
  const { stdout } = await doctor("gpu", { dawn: JSON.stringify(FACTS), args: [] });
  assert.match(stdout, /^Deno \d+\.\d+\.\d+ on \S+\n\n {3,}native {3,}dawn\n/);
  assert.match(stdout, /^adapter +Some adapter +some gpu$/m);
  assert.match(stdout, /^subgroups +not used +of 32, tested$/m);
  assert.match(stdout, /^tensor cores +none +16x16x16 f16 to f32$/m);
  assert.match(stdout, /^auto +preset (nano|mini).*preset mini$/m);
  assert.match(stdout, /^--gpu auto chooses dawn$/m);
  if (Deno.build.os === "linux") {
    assert.match(stdout, /^ranks under mpirun have one GPU each, at 0000:1b:00.0, 0000:43:00.0$/m);
  }
  assert.match(stdout, /^to fix: f16 is missing/m);
  const absent = await doctor("gpu", { args: [] });
  assert.match(absent.stdout, /^adapter +Some adapter +not installed: deno task dawn:install$/m);
});
