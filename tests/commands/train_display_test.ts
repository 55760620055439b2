import assert from "node:assert/strict";
import type { Terminal } from "../../commands/command.ts";
import { ProgressBar } from "../../commands/progress.ts";
import { TrainDisplay } from "../../commands/train_display.ts";
import type { ResolvedOptions } from "../../train/options.ts";
import type { TrainEvent } from "../../train/train.ts";
import { Screen } from "./screen.ts";

type Event<Kind> = Extract<TrainEvent, { kind: Kind }>;

const STORY = "Once upon a time, there was a clever and polite girl named Lucy. ".repeat(6) +
  "漢字🦆";

/** A training of `steps` steps as it is reported, with an evaluation and a story at every second step. */
function* training(steps: number, logEvery: number, pace = 0.5): Generator<TrainEvent> {
  const event = <Kind extends TrainEvent["kind"]>(kind: Kind, rest: Partial<Event<Kind>>) =>
    ({ kind, ...rest }) as unknown as TrainEvent;
  yield event("notice", { message: "preset nano, as asked" });
  yield event("start", {
    ...{ steps, epochs: steps * pace },
    options: {
      ...{ logEvery, precision: "f32", evalTokens: 0, out: "runs/x", vocabulary: "compact" },
    } as never,
    parameters: 7,
    trainedParameters: 7,
    corpus: {
      ...{ name: "sample", vocabularySize: 5, ownValidation: false },
      ...{ documents: 20, trainingTokens: 90, validationTokens: 10, cached: false },
    },
  });
  yield event("tuning", { done: 0, of: 2 });
  yield event("tuning", { done: 1, of: 2 });
  for (let step = 1; step <= steps; step++) {
    yield event("step", {
      ...{
        step,
        steps,
        epoch: step * pace,
        loss: 2,
        learningRate: 1e-3,
        gradientNorm: 1,
        skipped: 0,
      },
      ...(step > 1 ? { tokensPerSecond: 1000, secondsLeft: steps - step } : {}),
    });
    if (step % 2 !== 0) continue;
    yield event("evaluation", { step, loss: 2, perplexity: Math.exp(2), bitsPerByte: 1 });
    yield event("sample", { step, prompt: "", text: STORY });
    yield event("checkpoint", { step, path: `runs/x/checkpoints/00000${step}` });
  }
}

const HEAD = [
  "preset nano, as asked",
  "data sample: 20 documents, 90 tokens to train on, 10 held out; compact vocabulary of 5",
  "options: --log-every 1, --precision f32, --eval-tokens 0, --vocabulary compact",
  "training 7 parameters for 4 steps, 2.0 epochs, into runs/x",
];

const report = (step: number) => [
  `step ${step}: validation loss 2.000${step === 2 ? " nats per token" : ""}, perplexity 7.4, ` +
  "1.000 bits per byte",
  "",
  STORY,
  "",
  `saved runs/x/checkpoints/00000${step}`,
];

const LAST = "step 4/4 epoch 2.0 loss 2.000 lr 1.0e-3 norm 1.00 1000 tok/s 0.0s left";

for (const width of [40, 80, 200]) {
  Deno.test(`TrainDisplay leaves whole lines and no bar on a terminal of ${width} columns`, async () => {
    const screen = new Screen(width);
    const display = new TrainDisplay(new ProgressBar(screen));
    for (const event of training(4, 1)) display.show(event);
    assert.match(
      (await screen.lines()).join(" "),
      /============ step 4\/4 epoch 2.0 loss .* 0.0s left$/,
    );
    display.close();
    assert.deepEqual(await screen.lines(), [...HEAD, ...report(2), LAST, ...report(4)]);
  });

  Deno.test(`TrainDisplay leaves whole lines after Ctrl-C on a terminal of ${width} columns`, async () => {
    const screen = new Screen(width);
    const display = new TrainDisplay(new ProgressBar(screen));
    const events = [...training(4, 1)];
    const half = events.findIndex((event) => event.kind === "checkpoint") + 2;
    for (const event of events.slice(0, half)) display.show(event);
    await screen.echo("^C");
    display.close(); // as the signal makes train do
    for (const event of events.slice(half)) display.show(event);
    assert.deepEqual(await screen.lines(), [
      ...HEAD,
      ...report(2),
      LAST,
      ...report(4),
    ]);
  });
}

/** What a display writes where there is no terminal. */
function log(steps: number, logEvery: number, pace?: number): string[] {
  let written = "";
  const pipe: Terminal = { write: (text) => written += text, size: () => undefined };
  const display = new TrainDisplay(new ProgressBar(pipe));
  for (const event of training(steps, logEvery, pace)) display.show(event);
  display.close();
  assert.ok(!written.includes("\x1b"));
  return written.trimEnd().split("\n");
}

Deno.test("TrainDisplay writes a log that has the first step, every logEvery-th and the last", () => {
  assert.deepEqual(log(4, 1), [
    ...HEAD,
    "finding the fastest kernels, 2 in all",
    "step 1/4 epoch 0.5 loss 2.000 lr 1.0e-3 norm 1.00",
    "step 2/4 epoch 1.0 loss 2.000 lr 1.0e-3 norm 1.00 1000 tok/s 2.0s left",
    ...report(2),
    "step 3/4 epoch 1.5 loss 2.000 lr 1.0e-3 norm 1.00 1000 tok/s 1.0s left",
    LAST,
    ...report(4),
  ]);
  const steps = (lines: string[]) => lines.flatMap((line) => /^step (\d+)\//.exec(line)?.[1] ?? []);
  assert.deepEqual(steps(log(20, 9)), ["1", "9", "18", "20"]);
  assert.deepEqual(steps(log(20, 0)), []);
});

Deno.test("TrainDisplay wraps the options at the width of the terminal", () => {
  for (const columns of [40, 80, 200]) {
    const written: string[] = [];
    const terminal = { write: (text: string) => void written.push(text), size: () => undefined };
    const display = new TrainDisplay(new ProgressBar(terminal), columns);
    for (const event of training(1, 1)) {
      if (event.kind !== "start") continue;
      const options = { data: "sample", batchSize: 8, contextLength: 64, learningRate: 1e-3 };
      Object.assign(event.options, options, { weightDecay: 0.1, dropout: 0.1, beta1: 0.9 });
      display.show(event);
    }
    const lines = written.find((text) => text.startsWith("options:"))!.trimEnd().split("\n");
    const longest = Math.max(...lines.map((line) => line.length));
    assert.ok(longest <= columns && (longest > columns - 25 || lines.length === 1), `${longest}`);
  }
});

Deno.test("TrainDisplay says how much of GPT-2's vocabulary a model has, and nothing of the kind about another", () => {
  const of = (options: Partial<ResolvedOptions>) => {
    let written = "";
    const write = (text: string) => written += text;
    const display = new TrainDisplay(new ProgressBar({ write, size: () => undefined }));
    for (const event of training(1, 1)) {
      if (event.kind !== "start") continue;
      Object.assign(event.options, options);
      display.show(event);
    }
    return /; (.*) of 5$/m.exec(written)?.[1];
  };
  assert.equal(of({ vocabulary: "compact" }), "compact vocabulary");
  assert.equal(of({ vocabulary: "full" }), "full vocabulary");
  assert.equal(of({ vocabulary: "full", tokenizer: "gpt2" }), "full vocabulary");
  assert.equal(of({ vocabulary: "full", tokenizer: "own.json" }), "vocabulary");
  assert.equal(of({ vocabulary: "compact", tokenizer: "own.json" }), "compact vocabulary");
  assert.equal(of({ vocabulary: "auto", initFrom: "runs/own" }), "vocabulary");
});

Deno.test("TrainDisplay prints the options of ranks if there are several, or weights are exchanged", () => {
  const of = (options: Partial<ResolvedOptions>) => {
    let written = "";
    const write = (text: string) => written += text;
    const display = new TrainDisplay(new ProgressBar({ write, size: () => undefined }), 200);
    for (const event of training(1, 1)) {
      if (event.kind !== "start") continue;
      Object.assign(event.options, { distributed: "auto", timeout: 60, wire: "f32", ...options });
      display.show(event);
    }
    return /--timeout 60, --wire f32/.test(written);
  };
  assert.equal(of({ ranks: 1, syncEvery: 1 }), false);
  assert.equal(of({ ranks: 2, syncEvery: 1 }), true);
  assert.equal(of({ ranks: 1, syncEvery: 50 }), true);
});

Deno.test("TrainDisplay names the step before the cool-down of a run that has done its steps", () => {
  const of = (options: Partial<ResolvedOptions>, steps = 10) => {
    let written = "";
    const display = new TrainDisplay(
      new ProgressBar({ write: (text) => written += text, size: () => undefined }),
    );
    for (const event of training(steps, 1)) {
      if (event.kind !== "start") continue;
      Object.assign(event.options, { warmupSteps: 1, cooldown: 2, endsWith: "steps", ...options });
      display.show({ ...event, resumedFrom: 10 });
    }
    display.close();
    return written.trimEnd().split("\n").at(-1);
  };
  const done = "runs/x has done 10 steps already";
  const more = ": give --steps above 10 to continue";
  assert.equal(of({ schedule: "cosine", steps: 10 }), done + more);
  assert.equal(
    of({ schedule: "wsd", steps: 10 }),
    `${done}, and its cool-down: to continue from before the cool-down, give --resume-from 8 and ` +
      "--steps above 10",
  );
  assert.equal(of({ schedule: "wsd", steps: 5 }, 5), done + more);
});

Deno.test("TrainDisplay says how large a step is when the first takes long", () => {
  const { now } = performance, lines: string[] = [];
  for (const seconds of [20, 30]) {
    let time = 0;
    performance.now = () => time;
    const display = new TrainDisplay(
      new ProgressBar({ write: (text) => void lines.push(text), size: () => undefined }),
    );
    try {
      for (const event of training(4, 0)) {
        if (event.kind === "step") time += seconds * 1000;
        if (event.kind === "start") {
          const sizes = { batchSize: 8, contextLength: 64, gradientAccumulation: 2 };
          Object.assign(event.options, sizes);
        }
        display.show(event);
      }
      display.close();
    } finally {
      performance.now = now;
    }
  }
  assert.deepEqual(lines.filter((line) => line.startsWith("the first step")), [
    "the first step took 30.0s, compilation included: a step has 1024 tokens, --batch-size 8 by " +
    "--context-length 64 by --gradient-accumulation 2\n",
  ]);
});

Deno.test("TrainDisplay writes epochs with as many digits as the run needs", () => {
  for (const [pace, first, all] of [[30, "30.0", "60.0"], [0.01, "0.010", "0.020"]] as const) {
    const lines = log(2, 1, pace);
    assert.ok(lines.includes(`training 7 parameters for 2 steps, ${all} epochs, into runs/x`));
    assert.ok(lines.some((line) => line.startsWith(`step 1/2 epoch ${first} loss`)), first);
  }
});
