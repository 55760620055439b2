import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { listCheckpoints } from "../../model/files/checkpoint.ts";
import type { FileDigest } from "../../model/files/trainer_state.ts";
import { readLines } from "../../train/record/metrics.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train } from "../../train/train.ts";
import { changeFields, readFields } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const text = join(directory, "stories.txt");
Deno.writeTextFileSync(text, "A bird sat in a tree and sang of trees. ".repeat(20));

const OPTIONS: Partial<TrainOptions> = {
  data: [text],
  contextLength: 8,
  batchSize: 2,
  precision: "f32",
  sampleEvery: 0,
  evalEvery: 0,
  saveEvery: 0,
};

async function run(out: string, options: Partial<TrainOptions>): Promise<void> {
  for await (const _ of train({ ...OPTIONS, device, out: join(directory, out), ...options }));
}

const whole = once(() => run("whole", { preset: "nano", arch: "gpt2", steps: 1 }));

/** Makes one weight of a file of tensors no number. */
function poison(file: string): Uint8Array<ArrayBuffer> {
  const bytes = Deno.readFileSync(file);
  const view = new DataView(bytes.buffer), headerEnd = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, headerEnd)));
  const name = Object.keys(header).find((name) => name.endsWith("h.1.mlp.c_proj.weight"))!;
  view.setFloat32(headerEnd + header[name].data_offsets[0], NaN, true);
  return bytes;
}

/** A model one of whose weights is no number. */
async function poisoned(): Promise<string> {
  await whole();
  const checkpoint = listCheckpoints(join(directory, "whole"))[0]!.path;
  const model = join(directory, "poisoned");
  Deno.mkdirSync(model, { recursive: true });
  for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json"]) {
    Deno.copyFileSync(join(checkpoint, name), join(model, name));
  }
  Deno.writeFileSync(
    join(model, "model.safetensors"),
    poison(join(checkpoint, "model.safetensors")),
  );
  return model;
}

/** Trains in a run that ends with such an error, as its record says, and returns the steps of its checkpoints. */
async function failingRun(
  out: string,
  options: Partial<TrainOptions>,
  message: RegExp,
): Promise<number[]> {
  await assert.rejects(run(out, options), { name: "UserError", message });
  const { metric: end } = [...readLines(join(directory, out, "metrics.jsonl"))].at(-1)!;
  assert.deepEqual([end!.kind, end!.reason], ["end", "error"]);
  assert.match(end!.message!, /^Cannot (finish|continue|write) /);
  return listCheckpoints(join(directory, out)).map(({ step }) => step);
}

Deno.test("train() throws when no step was applied, however few there were", async () => {
  const options = { initFrom: await poisoned(), steps: 3 };
  const message =
    /^Cannot finish training as the gradient of every step since step 0 was not finite, .* more steps$/;
  assert.deepEqual(await failingRun("unapplied", options, message), []);
});

Deno.test("train() throws when an evaluation gives no finite loss", async () => {
  const options = { initFrom: await poisoned(), steps: 3, evalEvery: 1 };
  const message =
    /^Cannot continue training as the validation loss must be finite: .* NaN at step 0$/;
  assert.deepEqual(await failingRun("unevaluated", options, message), []);
});

Deno.test("train() saves no checkpoint with weights that are not finite", async () => {
  const message =
    /^Cannot write ".*h\.1\.mlp\.c_proj\.weight" as its values must be finite: one is NaN$/;
  const options = { initFrom: await poisoned(), steps: 3, saveEvery: 1 };
  assert.deepEqual(await failingRun("unsaved", options, message), []);
});

Deno.test("train() leaves the checkpoint that it resumed from when it diverges", async () => {
  await run("resumed", { preset: "nano", arch: "gpt2", steps: 1 });
  const checkpoint = listCheckpoints(join(directory, "resumed"))[0]!.path;
  const file = join(checkpoint, "model.safetensors"), bytes = poison(file);
  Deno.writeFileSync(file, bytes);
  const files = readFields(checkpoint).files as Record<string, FileDigest>;
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  changeFields(checkpoint, {
    files: { ...files, "model.safetensors": { bytes: bytes.length, sha256 } },
  });
  const message =
    /^Cannot finish training as the gradient of every step since step 1 was not finite/;
  assert.deepEqual(await failingRun("resumed", { steps: 3 }, message), [1]);
});
