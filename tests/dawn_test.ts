import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { TrainEvent } from "../train/events.ts";
import { type Result, root, task, tasks } from "./commands/task.ts";
import { once } from "./once.ts";
import { HAS_DAWN, SWIFTSHADER } from "./swiftshader.ts";

/** Dawn computes, in f32 on SwiftShader. */

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));
Deno.writeTextFileSync(join(directory, "tales.txt"), "One day, Tom went far away.\n".repeat(60));

function dawnTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: !HAS_DAWN, fn });
}

// as `deno task` starts commands, in the project, to which the permission to load Dawn is relative
const NATIVE = { INIT_CWD: directory }, DAWN = { ...NATIVE, ...SWIFTSHADER };

/** Runs a task on SwiftShader, with the permission to load Dawn. */
function dawnTask(name: string, args: string[]): Promise<Result> {
  return task(`${name}:ffi`, ["--gpu", "dawn", ...args], { env: DAWN });
}

function nativeTask(name: string, args: string[]): Promise<Result> {
  return task(name, ["--gpu", "native", ...args], { env: NATIVE });
}

/** A training that is saved after every fifth step. */
const TRAINING =
  ("--preset nano --arch gpt2 --optimizer adamw --layers 1 --width 16 --heads 2 --precision f32 --tune off " +
    "--data tales.txt --context-length 16 --batch-size 2 --eval-tokens 20 --eval-every 5 " +
    "--save-every 5 --keep 9 --sample-every 0 --log-every 1 --json").split(" ");

/** Learning rates that do not depend on the number of steps. */
const SCHEDULE = ["--schedule", "constant", "--warmup-steps", "2"];

/** The losses of the steps that a training has done, and its notices. */
function reportOf({ code, stdout, stderr }: Result): { losses: number[]; notices: string } {
  assert.equal(code, 0, stderr);
  const events: TrainEvent[] = stdout.trim().split("\n").map((line) => JSON.parse(line));
  return {
    losses: events.flatMap((event) => event.kind === "step" ? [event.loss] : []),
    notices: events.flatMap((event) => event.kind === "notice" ? [event.message] : []).join("\n"),
  };
}

/** The runs "dawn", of ten steps, and "native", of fifteen. */
const onDawn = once(async () =>
  reportOf(await dawnTask("train", [...TRAINING, ...SCHEDULE, "--steps", "10", "--out", "dawn"]))
);
const onNative = once(async () =>
  reportOf(
    await nativeTask("train", [...TRAINING, ...SCHEDULE, "--steps", "15", "--out", "native"]),
  )
);

/** The checkpoint of a run after five steps. */
const fifthOf = (run: string) => join(directory, run, "checkpoints", "000005");

function assertNear(
  actual: readonly number[],
  expected: readonly number[],
  tolerance: number,
): void {
  assert.equal(actual.length, expected.length);
  actual.forEach((loss, i) => {
    const error = Math.abs(loss - expected[i]!);
    assert.ok(error <= tolerance, `loss ${i} is ${loss}, expected ${expected[i]} (error ${error})`);
  });
}

dawnTest("train --gpu dawn gives in ten steps the losses of Deno's WebGPU", async () => {
  const { losses, notices } = await onDawn(), { losses: expected } = await onNative();
  assert.match(notices, /f32 on swiftshader.* through Dawn/i);
  assert.ok(expected[9]! < expected[0]! - 1, `losses are ${expected}`);
  // random parameters differ by 2⁻¹¹ at most, the error of SwiftShader's cosine
  assertNear(losses, expected.slice(0, 10), 5e-3);
});

dawnTest("train --gpu dawn gives the same bits in ten steps as in five and five more", async () => {
  await onDawn();
  const again = ["--resume-from", fifthOf("dawn"), "--steps", "10", "--out", "again", "--json"];
  const { losses, notices } = reportOf(await dawnTask("train", again));
  assert.equal(losses.length, 5);
  assert.doesNotMatch(notices, /the last bits/);
  const hashOf = (run: string, name: string) =>
    createHash("sha256")
      .update(Deno.readFileSync(join(directory, run, "checkpoints", "000010", name))).digest("hex");
  for (const name of ["model.safetensors", "optimizer.safetensors"]) {
    assert.equal(hashOf("again", name), hashOf("dawn", name), name);
  }
});

/** Sums in f32 in another order, over ten steps. */
const TOLERANCE = 5e-5;

dawnTest(
  "train resumes a run of one provider on the other with the same losses, and says that last bits may differ",
  async () => {
    const runs = [
      { run: "native", losses: (await onNative()).losses, resume: dawnTask, steps: 15 },
      { run: "dawn", losses: (await onDawn()).losses, resume: nativeTask, steps: 10 },
    ];
    for (const { run, losses, resume, steps } of runs) {
      const args = ["--resume-from", fifthOf(run), "--steps", `${steps}`, "--out", `from ${run}`];
      const resumed = reportOf(await resume("train", [...args, "--json"]));
      assert.match(resumed.notices, /^resuming on .* the last bits of the results may differ$/m);
      assertNear(resumed.losses, losses.slice(5), TOLERANCE);
    }
  },
);

dawnTest(
  "train resumes on Dawn a run of Dawn, and names the task with the permission that it needs",
  async () => {
    await onDawn();
    const args = ["--resume-from", fifthOf("dawn"), "--steps", "10", "--out", "refused"];
    const { code, stderr } = await task("train", args, { env: DAWN });
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^--gpu dawn, as in the checkpoint\nError: Cannot use Dawn as .*\n.* deno task train:ffi; --gpu native needs none\n$/,
    );
  },
);

dawnTest("generate --gpu dawn draws the tokens that Deno's WebGPU draws", async () => {
  await onDawn();
  const args = ["--run", "dawn", "--max-new-tokens", "12", "--seed", "3", "One day"];
  const native = await nativeTask("generate", args), dawn = await dawnTask("generate", args);
  assert.deepEqual(dawn, native);
  assert.match(dawn.stdout, /^One day./);
});

dawnTest("toy gives the permission to load Dawn to a command with --gpu dawn", async () => {
  await onDawn();
  const { code, stdout, stderr } = await new Deno.Command(join(root, "toy"), {
    args: ["eval", "--gpu", "dawn", "--run", "dawn", "--tokens", "20", "--json"],
    cwd: directory,
    env: SWIFTSHADER,
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  assert.ok(JSON.parse(new TextDecoder().decode(stdout)).loss > 0);
});

dawnTest("doctor describes Dawn beside Deno's WebGPU", async () => {
  const { code, stdout } = await task("doctor", ["--json"], { env: SWIFTSHADER });
  assert.equal(code, 0);
  const { native, dawn, auto } = JSON.parse(stdout);
  assert.match(`${native.adapter}, ${dawn.adapter}`, /^swiftshader.*, swiftshader/i);
  assert.match(dawn.backend, /^Dawn on Vulkan/);
  assert.deepEqual([dawn.isCpu, dawn.matrixShapes, auto], [true, [], "native"]);
});

/**
 * Tests that run again on Dawn: files of tests/kernels/, and the names of those to choose if SwiftShader takes long to
 * compile others.
 */
const SELECTION: readonly [files: string, names?: RegExp][] = [
  [
    "cross_entropy device dropout histogram layernorm linear matmul_activation normal optimizer ops " +
    "provider shader subgroups sum swiglu tune",
  ],
  ["attention embedding", /^attention in rows|^attentionWeights|^embedding matches|sums runs/],
];

for (const [files, names] of SELECTION) {
  dawnTest(
    `Dawn passes the tests of kernels: ${files}${names ? ` (${names.source})` : ""}`,
    async () => {
      const [, ...words] = (tasks["test:ffi"].command as string).split(" ").slice(1);
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...[...words, "--no-check", ...names ? ["--filter", `${names}`] : []],
          ...files.split(" ").map((name) => join("tests", "kernels", `${name}_test.ts`)),
        ],
        cwd: root,
        env: { ...SWIFTSHADER, TOY_GPU: "dawn", NO_COLOR: "1" },
      }).output();
      const text = new TextDecoder().decode(stdout);
      assert.equal(code, 0, text + new TextDecoder().decode(stderr));
      const [, passed] = /^ok \| (\d+) passed/m.exec(text)!;
      assert.ok(Number(passed) >= 10, text);
    },
  );
}
