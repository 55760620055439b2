import assert from "node:assert/strict";
import { join } from "node:path";
import { checkPlace, placeAt } from "../../generate/place.ts";
import { newestIn } from "../../generate/source.ts";
import { directory, makeRun } from "../checkpoints.ts";

const run = makeRun("runs/a", { count: 2 });
const runs = join(directory, "runs"), checkpoints = join(run, "checkpoints");
const checkpoint = join(checkpoints, "000001");
const model = join(directory, "model"), adapters = join(directory, "adapters");
const empty = join(runs, "Empty"), texts = join(directory, "texts");
for (const path of [model, adapters, empty, texts]) Deno.mkdirSync(path);
const gguf = join(directory, "model.gguf"), text = join(texts, "text.txt");
const config = join(model, "config.json"), adapterConfig = join(adapters, "adapter_config.json");
for (const path of [gguf, config, adapterConfig, text]) Deno.writeTextFileSync(path, "{}");

Deno.test("placeAt() names the option that loads a model from a path or beside it", () => {
  const file = { reason: "it is a file" };
  const cases: [path: string, place: ReturnType<typeof placeAt>][] = [
    [run, { reason: "it is a run", load: ["--run", run] }],
    [`${run}/`, { reason: "it is a run", load: ["--run", `${run}/`] }],
    [checkpoint, { reason: "it is a checkpoint", load: ["--checkpoint", checkpoint] }],
    [checkpoints, { reason: "it holds the checkpoints of a run", load: ["--run", run] }],
    [runs, { reason: "it holds runs", load: ["--run", run] }],
    [model, { reason: "it is a model", load: ["--model", model] }],
    [adapters, { reason: "it is a model", load: ["--model", adapters] }],
    [gguf, { ...file, load: ["--model", gguf] }],
    [config, { ...file, load: ["--model", model] }],
    [join(checkpoint, "config.json"), { ...file, load: ["--checkpoint", checkpoint] }],
    [text, file],
    [empty, undefined],
    [join(directory, "absent"), { reason: "there is no such directory" }],
    [join(text, "absent"), undefined],
  ];
  for (const [path, place] of cases) assert.deepEqual(placeAt(path), place, path);
});

Deno.test("checkPlace() says what to type when a path is not what its option needs", () => {
  checkPlace("--run", run);
  checkPlace("--checkpoint", checkpoint);
  for (const path of [empty, join(directory, "absent")]) checkPlace("--run", path);
  const cases = [
    ["--run", checkpoint, "a run: it is a checkpoint", `--checkpoint ${checkpoint}`],
    ["--run", checkpoints, "a run: it holds the checkpoints of a run", `--run ${run}`],
    ["--checkpoint", run, "a checkpoint: it is a run", `--run ${run}`],
    ["--checkpoint", model, "a checkpoint: it is a model", `--model ${model}`],
    ["--run", text, "a run: it is a file", undefined],
    ["--checkpoint", join(run, "absent"), "a checkpoint: there is no such directory", undefined],
  ] as const;
  for (const [flag, path, problem, use] of cases) {
    assert.throws(() => checkPlace(flag, path), {
      name: "UserError",
      message: `Cannot load a model from ${path} as ${flag.slice(2)} must be ${problem}`,
      hint: use && `To load it: ${use}`,
    });
  }
});

Deno.test("newestIn() names the newest run beside one that is absent or empty", () => {
  const older = makeRun("some/a", { count: 1 }), newer = makeRun("some/b", { count: 1 });
  Deno.utimeSync(join(older, "checkpoints", "000001"), 1, 1);
  const some = join(directory, "some"), hint = new RegExp(`: --run ${newer}; .* runs ${some}$`);
  assert.throws(() => newestIn(join(some, "none")), {
    message: `Cannot load a model from ${join(some, "none")} as there is no such directory`,
    hint,
  });
  Deno.mkdirSync(join(some, "bare"));
  assert.throws(() => newestIn(join(some, "bare")), { message: /bare holds no checkpoint$/, hint });
  assert.throws(() => newestIn(join(directory, "no", "run")), {
    hint: "Train a model first: deno task train; one to chat with: " +
      "deno task train --data conversations --out runs/chat",
  });
});
