import assert from "node:assert/strict";
import { join } from "node:path";
import { readPlan } from "../../../train/plan/plan_file.ts";
import { directory } from "../../checkpoints.ts";

Deno.test("readPlan() refuses what is no plan, and options that none has or that are out of range", () => {
  const path = join(directory, "plan.json");
  const read = (value: unknown) => {
    Deno.writeTextFileSync(path, typeof value === "string" ? value : JSON.stringify(value));
    return readPlan(path);
  };
  const options = { layers: 1, steps: 5, arch: "llama", optimizer: "muon", seed: 2 };
  assert.deepEqual(read({ depth: 1, options, blockParameters: 7 }), { depth: 1, options });
  assert.deepEqual(readPlan(directory), { depth: 1, options });
  assert.deepEqual(read({ options }), { options });
  const refused: [unknown, RegExp][] = [
    ["{", /plan\.json as it must be JSON/],
    [{}, /plan .*plan\.json as options must be an object: current value is undefined$/],
    [{ options: [] }, /options must be an object: current value is \[\]$/],
    [{ options: { out: "x" } }, /every option must be one that a plan may hold: "out" is none$/],
    [{ options: { data: "x" } }, /"data" is none$/],
    [{ options: { arch: "llama", initFrom: "gpt2" } }, /arch must be given without initFrom/],
    [{ options: { layers: 1 } }, /its options must have steps: current value is {"layers":1}$/],
    [{ options: { layers: 0 } }, /its options must be valid: layers must be an integer/],
    [{ depth: 0.5, options }, /its options must be valid: depth must be an integer/],
  ];
  for (const [value, message] of refused) assert.throws(() => read(value), message);
  assert.throws(() => readPlan(join(directory, "none.json")), { name: "UserError" });
  Deno.removeSync(path);
  assert.throws(
    () => readPlan(directory),
    /^UserError: Cannot read the plan of .* as it must be a run that was planned: it has no plan\.json$/,
  );
});
