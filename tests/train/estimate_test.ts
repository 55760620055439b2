import assert from "node:assert/strict";
import { join } from "node:path";
import { estimateTable, timeTable } from "../../train/estimate.ts";
import { openRunDirectory } from "../../train/directory/run_directory.ts";
import type { Device } from "../../kernels/device.ts";
import { Pipelines } from "../../kernels/pipelines.ts";
import { costOf } from "../../train/cost.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { directory } from "../checkpoints.ts";
import { withFreeMemory } from "../free_bytes.ts";
import { device } from "../kernels/harness.ts";

const TEXTS = Array.from({ length: 40 }, (_, i) => `One cat and ${i} dogs met in the park.`);
const text = join(directory, "dry.txt");
Deno.writeTextFileSync(text, TEXTS.join("<|endoftext|>"));

const OPTIONS = {
  data: [text],
  preset: "nano",
  contextLength: 8,
  batchSize: 2,
  steps: 4,
  tune: "off",
  precision: "f32",
} as const;

async function eventsOf(options: Parameters<typeof train>[0]): Promise<TrainEvent[]> {
  return await Array.fromAsync(train({ device, ...OPTIONS, ...options }));
}

/** What a dry run reports; by default no step is timed, as the signal ends that. */
async function dryRun(
  { isTimed = false, ...options }: Parameters<typeof train>[0] & { isTimed?: boolean },
) {
  const controller = new AbortController(), { signal } = controller;
  let start: TrainEvent & { kind: "start" } | undefined;
  let estimate: TrainEvent & { kind: "estimate" } | undefined;
  let time: TrainEvent & { kind: "time" } | undefined;
  const notices: string[] = [], kinds: string[] = [];
  for await (const event of train({ device, ...OPTIONS, signal, ...options, dryRun: true })) {
    kinds.push(event.kind);
    if (event.kind === "notice") notices.push(event.message);
    if (event.kind === "start") {
      start = event;
      if (!isTimed) controller.abort();
    }
    if (event.kind === "estimate") estimate = event;
    if (event.kind === "time") time = event;
  }
  return { start: start!, notices, kinds, estimate: estimate!, time };
}

/** Every file and directory below a path, with its size and time. */
function filesOf(path: string): string[] {
  return [...Deno.readDirSync(path)].flatMap(({ name, isDirectory }) => {
    const file = join(path, name), { size, mtime } = Deno.statSync(file);
    return [
      `${file} ${isDirectory ? "" : size} ${mtime?.getTime()}`,
      ...(isDirectory ? filesOf(file) : []),
    ];
  }).sort();
}

/** A device that counts the bytes of its buffers. */
function countingDevice(): { device: Device; bytes: () => number } {
  let bytes = 0;
  const gpu = new Proxy(device.gpu, {
    get(target, name) {
      if (name !== "createBuffer") {
        const value = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      }
      return (descriptor: GPUBufferDescriptor) => {
        const buffer = target.createBuffer(descriptor), destroy = buffer.destroy.bind(buffer);
        bytes += buffer.size;
        buffer.destroy = () => {
          bytes -= buffer.size;
          destroy();
        };
        return buffer;
      };
    },
  });
  return { device: { ...device, gpu, pipelines: new Pipelines() }, bytes: () => bytes };
}

Deno.test("train() with dryRun changes no file, of a new run, one that is resumed, or one that starts over", async () => {
  const folder = join(directory, "dry"), out = join(folder, "run");
  Deno.mkdirSync(folder);
  const { start, estimate: { disk } } = await dryRun({ out });
  assert.deepEqual(filesOf(folder), []);
  assert.equal(start.resumedFrom, undefined);

  await eventsOf({ out, sampleEvery: 0 });
  const before = filesOf(folder);
  const resumed = await dryRun({ out, steps: 9 });
  assert.deepEqual([resumed.start.resumedFrom, resumed.start.steps], [4, 9]);
  assert.ok(resumed.estimate.disk.hasTokens);
  const again = await dryRun({ out, fresh: true });
  assert.equal(again.start.resumedFrom, undefined);
  assert.equal(again.estimate.disk.checkpoints, disk.checkpoints);
  const back = await dryRun({ out, resumeFrom: "2" });
  assert.equal(back.start.resumedFrom, 2);
  const done = await dryRun({ out, isTimed: true });
  assert.deepEqual([done.time, done.estimate.flops.total], [undefined, 0]);
  assert.deepEqual((await dryRun({ out, steps: 3 })).estimate, done.estimate); // fewer than it has done
  assert.deepEqual(filesOf(folder), before);
});

Deno.test("train() with dryRun counts the memory of the training to the byte, its tokens and its checkpoints", async () => {
  for (
    const options of [
      { optimizer: "adamw" },
      {
        optimizer: "adamw",
        gradientAccumulation: 2,
        dropout: 0.1,
        freeze: "embeddings",
        histogramEvery: 1,
      },
    ] as const
  ) {
    const out = join(directory, `counted ${Object.keys(options)}`);
    const { start, estimate } = await dryRun({ out, ...options });
    const { total, samples, ...roles } = estimate.memory;
    const counting = countingDevice(), seen: number[] = [];
    for await (
      const { kind } of train({
        ...OPTIONS,
        out,
        sampleEvery: 1,
        ...options,
        device: counting.device,
      })
    ) {
      if (kind === "step") seen.push(counting.bytes());
    }
    assert.equal(seen[0], total - samples);
    assert.equal(Object.values(roles).reduce((a, b) => a + b), total - samples);
    assert.equal(new Set(seen).size, 1, `${seen}`);
    assert.ok(Object.values(estimate.memory).every((bytes) => bytes > 0));
    // f32 gradients and two moments of what is trained
    const { gradients, optimizer, parameters } = estimate.memory;
    assert.ok(gradients >= 4 * start.trainedParameters && optimizer >= 2 * gradients);
    assert.ok(parameters >= 4 * start.parameters);

    const { checkpointBytes, checkpoints, tokenBytes } = estimate.disk;
    const saved = [...Deno.readDirSync(join(out, "checkpoints"))].map(({ name }) =>
      filesBytes(join(out, "checkpoints", name))
    );
    assert.ok(saved.length <= checkpoints);
    for (const bytes of saved) assert.ok(bytes <= checkpointBytes && bytes > 0.8 * checkpointBytes);
    const [cached] = [...Deno.readDirSync(join(directory, "cache"))];
    const [tokens, documents] = ["tokens.bin", "documents.bin"].map((name) =>
      Deno.statSync(join(directory, "cache", cached!.name, name)).size
    );
    assert.equal(tokenBytes, tokens! + documents!);
    Deno.removeSync(join(directory, "cache"), { recursive: true });
  }
});

Deno.test("train() with dryRun counts what the evaluation of conversations needs, to the byte", async () => {
  const lines = TEXTS.map((content) => {
    const messages = [{ role: "user", content: "Where?" }, { role: "assistant", content }];
    return `${JSON.stringify({ messages })}\n`;
  });
  const data = [join(directory, "talk.jsonl")];
  Deno.writeTextFileSync(data[0]!, lines.join(""));
  const options = { data, contextLength: 64, out: join(directory, "talk") };
  const { estimate: { memory: { total, samples } } } = await dryRun(options);
  const counting = countingDevice();
  for await (const { kind } of train({ ...OPTIONS, ...options, device: counting.device })) {
    if (kind !== "step") continue;
    assert.equal(counting.bytes(), total - samples);
    break;
  }
  assert.equal(counting.bytes(), 0); // all is freed when the consumer stops
});

function filesBytes(path: string): number {
  return [...Deno.readDirSync(path)].reduce(
    (sum, { name }) => sum + Deno.statSync(join(path, name)).size,
    0,
  );
}

Deno.test("train() says what it recomputes when too little memory is free, and estimates that", async () => {
  const cpu = { ...device, isCpu: true }; // the free memory of a GPU is not known
  const sizes = { out: join(directory, "recomputed"), layers: 6, batchSize: 16, device: cpu };
  const isSaid = (notices: string[]) => notices.filter((notice) => notice.includes("recompute"));
  const none = await dryRun(sizes), block = await dryRun({ ...sizes, recompute: "block" });
  const { total: most } = none.estimate.memory, { total: least } = block.estimate.memory;
  assert.ok(least < most, `${least} of ${most}`);
  assert.deepEqual([none, block].flatMap(({ notices }) => isSaid(notices)), []);
  using _ = withFreeMemory(least);
  const chosen = await dryRun(sizes);
  assert.equal(chosen.estimate.memory.total, least);
  const [said, ...others] = isSaid(chosen.notices);
  assert.match(
    said!,
    /^--recompute block, as there is too little memory to keep all activations \([\d.]+ [MG]B of memory are free, and this would need [\d.]+ [MG]B\)$/,
  );
  assert.deepEqual(others, []);
  assert.equal(chosen.start.options.recompute, "auto");
});

Deno.test("train() with dryRun counts FLOPs of the steps that remain, and times them unless it is interrupted", async () => {
  const out = join(directory, "timed");
  const { start, estimate: { flops }, time, kinds } = await dryRun({
    out,
    arch: "gpt2",
    documents: "joined",
    steps: 100,
    isTimed: true,
  });
  const { vocabularySize } = start.corpus;
  const config = { vocabularySize, contextLength: 8, width: 64, layers: 2, heads: 2 };
  const { flopsPerToken: perToken } = costOf(config);
  assert.deepEqual(flops, { perToken, perStep: 16 * perToken, total: 1600 * perToken });
  assert.ok(time!.secondsPerStep > 0 && time!.timedSteps >= 1);
  assert.equal(time!.steps, 100);
  assert.equal(time!.seconds, 100 * time!.secondsPerStep);
  assert.deepEqual(kinds.slice(-3), ["start", "estimate", "time"]);

  assert.match(
    timeTable(time),
    /^time +\S+ for 100 steps of \S+( m|)s\n +measured now over \d+ steps; /,
  );

  const interrupted = await dryRun({ out, arch: "gpt2", documents: "joined", steps: 100 });
  assert.deepEqual([interrupted.time, interrupted.estimate.flops], [undefined, flops]);
});

Deno.test("train() with dryRun refuses what train() refuses, in the same words", async () => {
  const messageOf = async (options: Parameters<typeof train>[0]) => {
    try {
      await eventsOf(options);
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  const out = join(directory, "locked");
  const file = join(directory, "file");
  Deno.writeTextFileSync(file, "");
  using locks = new DisposableStack();
  locks.adopt(openRunDirectory(out), (run) => run.close());
  const refused: [Parameters<typeof train>[0], RegExp][] = [
    [{ out }, /^Cannot open run .* as another process is training there$/],
    [{ out: directory }, /^Cannot open run .* as it must be a run or an empty directory/],
    [{ out: join(file, "run") }, /^Cannot open run .* as a file is in its place$/],
    [{ steps: 0 }, /^Cannot train as steps must be an integer from 1/],
    [{ batchSize: 65536, contextLength: 32768 }, /^Cannot train as batchSize must be at most/],
    [{ data: [join(directory, "absent.txt")] }, /absent\.txt: there is no such file/],
  ];
  for (const [options, expected] of refused) {
    const given = { out: join(directory, "refused"), ...options };
    const message = await messageOf({ ...given, dryRun: true });
    assert.match(message, expected);
    assert.equal(message, await messageOf(given));
  }
});

Deno.test("train() with dryRun downloads nothing, and says what it lacks", async () => {
  const environment = { HF_HOME: join(directory, "empty hub"), HF_ENDPOINT: "http://127.0.0.1:1" };
  const out = join(directory, "absent");
  for (
    const [options, what] of [
      [{ data: "tinystories" }, "roneneldan/TinyStories/TinyStoriesV2-GPT4-train.txt"],
      [{ preset: "auto", initFrom: "distilgpt2" }, "distilbert/distilgpt2"],
    ] as const
  ) {
    await assert.rejects(() => dryRun({ out, environment, ...options }), {
      name: "UserError",
      message: `Cannot estimate the training as ${what} must be on this machine: ` +
        "a dry run downloads nothing",
    });
  }
  assert.throws(() => Deno.statSync(out), { code: "ENOENT" });
});

Deno.test("estimateTable() has a line per figure", () => {
  const memory = {
    ...{ total: 3e6, parameters: 1e6, optimizer: 5e5, gradients: 4e5, activations: 3e5 },
    ...{ logits: 2e5, other: 1e5, evaluation: 3e5, samples: 2e5 },
  };
  const estimate = {
    memory,
    flops: { perToken: 1e6, perStep: 2e9, total: 1.5e11 },
    disk: {
      ...{
        checkpointBytes: 3.2e6,
        checkpoints: 4,
        weightsOnlyBytes: 1e6,
        weightsOnlyCheckpoints: 0,
      },
      ...{ tokenBytes: 5e4, hasTokens: false },
    },
  };
  const event = {
    ...{ parameters: 9000, trainedParameters: 9000, device: "a GPU", resumedFrom: 25 },
    options: { out: "runs/a", steps: 100 },
  } as TrainEvent & { kind: "start" };
  const time = { secondsPerStep: 0.25, timedSteps: 4, steps: 75, seconds: 18.75 };
  assert.equal(
    estimateTable(estimate, event) + timeTable(time),
    `parameters              9000, all trained
memory                  3.00 MB on a GPU
  parameters            1.00 MB
  optimizer             500 kB
  gradients             400 kB
  activations           300 kB
  logits                200 kB
  batches and scratch   100 kB
  evaluation            300 kB
  samples               200 kB
FLOPs                   1.00e6 per token, 2.00e9 per step
                        1.50e11 for 75 steps
disk                    4 checkpoints of at most 3.20 MB in runs/a
                        50.0 kB of tokens will be in ${join("runs", "cache")}
time                    18.8s for 75 steps of 250 ms
                        measured now over 4 steps; evaluations, samples and saving add to it
`,
  );
  assert.match(
    estimateTable(
      { ...estimate, disk: { ...estimate.disk, weightsOnlyCheckpoints: 9, hasTokens: true } },
      { ...event, trainedParameters: 7 },
    ),
    /^parameters +7 trained of 9000\n[^]* in runs\/a\n +9 more that hold only weights, of at most 1\.00 MB\n.* of tokens are in .*\n$/,
  );
  assert.match(timeTable(undefined), /^time +not measured\n$/);
});
