import assert from "node:assert/strict";
import { CHECKS, resultOf, RunChecks, unknownResult } from "../../../train/record/checks.ts";
import type { Metric } from "../../../train/record/metrics.ts";

/** What the checks say of evaluations, by their number; each comes after a step with its training loss. */
function saidOf(
  validation: readonly number[],
  training: (i: number) => number,
  entropy?: { entropyPerToken: number; tokens: number },
): [number, name: string, message: string][] {
  const checks = new RunChecks();
  return validation.flatMap((loss, i) => {
    assert.deepEqual(checks.add({ kind: "step", step: i + 1, loss: training(i) }), []);
    const warnings = checks.add({ kind: "evaluation", step: i + 1, loss, ...entropy });
    return warnings.map(({ name, message }) => [i, name, message] as [number, string, string]);
  });
}

const falling = (i: number) => 4 - i / 10;

Deno.test("RunChecks says once per rise that a model memorizes its text", () => {
  const [first, ...more] = saidOf(
    [4, 3, 3.2, 3.3, 3.4, 3.5, 2.9, 3, 3, 2.92, 3, 3, 3],
    falling,
  );
  const [at, name, sentence] = first!;
  assert.deepEqual([at, name], [4, "overfitting"]);
  assert.match(
    sentence,
    /^the validation loss has been rising: .* above the best, 3\.000 at step 2,/,
  );
  assert.match(sentence, /memorizes its text\. Use more text, --dropout or fewer --steps/);
  assert.match(sentence, /\(training loss 3\.600, validation loss 3\.400\)/);
  assert.match(sentence, /--checkpoint best/);
  // 2.92 is above the best by no more than noise
  assert.deepEqual(more.map(([at]) => at), [12]);
});

Deno.test("RunChecks says nothing of single rises, of noise and of losses that are not finite", () => {
  for (
    const losses of [[3, 3.2, 3.2, 2.9, 3.2, 3.2], [3, 3.02, 3.02, 3.02, 3.02], [3, NaN, NaN, NaN]]
  ) {
    assert.deepEqual(saidOf(losses, falling), []);
  }
});

Deno.test("RunChecks names the learning rate when the training loss has risen, too", () => {
  const [[at, name, sentence]] = saidOf([4, 3, 3.2, 3.3, 3.4], (i) => 3 + i / 10) as [
    [number, string, string],
  ];
  assert.deepEqual([at, name], [4, "diverging"]);
  assert.match(
    sentence,
    /the training loss does not fall: the learning rate is too high\. Use a lower --l/,
  );
});

Deno.test("RunChecks names the momentum of DiLoCo when a training diverges that has a high one", () => {
  const saidWith = (options: Record<string, unknown>) => {
    const checks = new RunChecks();
    checks.add({ kind: "start", step: 0, options });
    const warnings = new Array<number>(200).fill(NaN)
      .flatMap((loss, i) => checks.add({ kind: "step", step: i + 1, loss }));
    return warnings.map(({ message }) => message.replace(/^.*?: /, ""));
  };
  const rate = saidWith({});
  assert.match(rate[0]!, /^the learning rate is too high\. /);
  assert.deepEqual(saidWith({ syncEvery: 1, outerMomentum: 0.9 }), rate);
  assert.deepEqual(saidWith({ syncEvery: 50, outerMomentum: 0.5 }), rate);
  for (const given of [{}, { outerMomentum: 0.8 }]) { // 0.9 if not given
    assert.deepEqual(saidWith({ syncEvery: 50, ...given }), [
      "the momentum of DiLoCo is too high for a short training, or the learning rate. " +
      "Use --outer-momentum 0.5; if that does not help, a lower --learning-rate",
    ]);
  }
});

Deno.test("RunChecks says once that a loss is below the entropy by more than chance", () => {
  const of = (losses: number[], tokens: number) =>
    saidOf(losses, falling, { entropyPerToken: 0.85, tokens });
  assert.deepEqual(of([0.9, 0.85, 0.83], 20_000), []);
  assert.deepEqual(of([0.7], 400), []);
  const [[at, name, sentence], ...more] = of([0.9, 0.81, 0.05], 20_000) as [
    [number, string, string],
  ];
  assert.deepEqual([at, name], [1, "below-entropy"]);
  assert.match(
    sentence,
    /0\.810, is below the entropy of the text, 0\.850 nats per token: .* Shift the labels by one/,
  );
  assert.deepEqual(more, []);
  assert.equal(of([0.05], 400).length, 1);
});

Deno.test("RunChecks says once per fall that the loss scale is below 1", () => {
  const checks = new RunChecks();
  const said = [4, 0.5, 0.25, 1, 0.5, 4].map((lossScale, i) => (
    checks.add({ kind: "step", step: i + 1, loss: i === 1 ? null : 3, lossScale })
      .map(({ name, message }) => [name, message.replace(/:.*/, "")])
  ));
  const falls = ["overflowing-gradients", "the loss scale fell to 0.5"];
  assert.deepEqual(said, [[], [falls], [], [], [falls], []]);
});

/** Lines of steps with these losses, after a start. */
function linesOf(losses: readonly (number | null)[]): Metric[] {
  const options = { batchSize: 8, contextLength: 32, gradientAccumulation: 1 };
  return [
    { kind: "start", step: 0, options },
    ...losses.map((loss, i): Metric => ({ kind: "step", step: i + 1, loss })),
  ];
}

/** Numbers of lines after which the checks say that the training diverges. */
function divergesAt(lines: readonly Metric[]): number[] {
  const checks = new RunChecks();
  return lines.flatMap((line, i) =>
    checks.add(line).map(({ name }) => {
      assert.equal(name, "diverging");
      return i;
    })
  );
}

Deno.test("RunChecks says once per rise of the training loss that it diverges", () => {
  const constant = (loss: number, count: number) => new Array<number>(count).fill(loss);
  const rise = linesOf([7, 6, 5, 4, ...constant(12, 30), ...constant(4, 200), ...constant(9, 9)]);
  const [first, second, ...more] = divergesAt(rise);
  assert.ok(first! < 10 && second! > 230, `${first} ${second}`);
  assert.deepEqual(more, []);
});

Deno.test("RunChecks says nothing of a loss that is noisy, has peaks, or rises with another text", () => {
  const noisy = Array.from({ length: 500 }, (_, i) => 3 + 4 * Math.exp(-i / 50) + Math.sin(i * i));
  assert.deepEqual(divergesAt(linesOf(noisy)), []);
  assert.deepEqual(
    divergesAt(linesOf(noisy.map((loss, i) => i % 90 === 80 ? 3 * loss : loss))),
    [],
  );
  const other = [...linesOf(noisy), ...linesOf(noisy.map((loss) => loss + 5))];
  assert.deepEqual(divergesAt(other), []);
});

Deno.test("RunChecks keeps what it has found when a start is followed by no step", () => {
  const verdictOf = (lines: readonly Metric[]) => {
    const checks = new RunChecks();
    for (const line of lines) checks.add(line);
    return checks.results().find(({ name }) => name === "diverging")!.verdict;
  };
  const losses = [...new Array<number>(30).fill(2), ...new Array<number>(200).fill(12)];
  const diverging = linesOf(losses), start = linesOf([]);
  assert.equal(verdictOf([...diverging, ...start]), "sick");
  assert.equal(verdictOf([...diverging, ...linesOf([12, 12])]), "ok");
});

Deno.test("RunChecks allows the training loss to rise by half a nat and a quarter of its lowest", () => {
  const risen = (from: number, to: number) => {
    const falling = Array.from({ length: 200 }, (_, i) => from + 0.01 / (i + 1));
    return divergesAt(linesOf([...falling, ...new Array<number>(200).fill(to)])).length;
  };
  // batches of 256 tokens may differ by 0.13 more
  assert.deepEqual([risen(0.1, 0.7), risen(0.1, 0.8)], [0, 1]);
  assert.deepEqual([risen(4, 5.5), risen(4, 5.7)], [0, 1]);
});

Deno.test("RunChecks leaves out the evaluation of the model that a training starts from", () => {
  const checks = new RunChecks();
  for (const [step, loss] of [[0, 1], [1, 3], [2, 3.1], [3, 3.2]] as const) {
    assert.deepEqual(checks.add({ kind: "evaluation", step, loss }), []);
  }
});

Deno.test("RunChecks says that a training diverges whose losses are not finite", () => {
  const lines = linesOf([7, 6, ...new Array<null>(50).fill(null)]);
  assert.deepEqual(divergesAt(lines).length, 1);
  const skipped = linesOf(Array.from({ length: 50 }, (_, i) => i % 3 === 0 ? 3 : null));
  assert.deepEqual(divergesAt(skipped), []);
});

Deno.test("RunChecks.results() has the numbers of the record, or says what it lacks", () => {
  const checks = new RunChecks();
  for (const { value, verdict, finding } of checks.results()) {
    assert.deepEqual([value, verdict], [null, "unknown"]);
    assert.match(finding, /^the record has no /);
  }
  for (const line of linesOf([4, 3, 2])) checks.add({ ...line, lossScale: 256 });
  const evaluation = { kind: "evaluation", tokens: 1e4, entropyPerToken: 2 };
  checks.add({ ...evaluation, step: 3, loss: 2.5, epoch: 0.51 });
  checks.add({ ...evaluation, step: 4, loss: 2.75, epoch: 0.68 });
  const results = Object.fromEntries(checks.results().map((result) => [result.name, result]));
  assert.ok(checks.results().every(({ verdict }) => verdict === "ok"));
  assert.equal(results["below-entropy"]!.value, 0.75);
  assert.equal(results["overflowing-gradients"]!.value, 256);
  assert.equal(results.diverging!.value, 0);
  const { value, finding, figures } = results.overfitting!;
  assert.ok(Math.abs(value! - 0.1) < 1e-12);
  assert.match(finding, /validation loss 2\.750 after 0\.68 epochs; .* was 2\.500 at step 3$/);
  assert.deepEqual(figures!.bestStep, 3);
});

Deno.test("resultOf() compares with the threshold of the table, or with that of its caller", () => {
  const { threshold } = CHECKS["dead-block"];
  assert.equal(resultOf("dead-block", threshold, "x").verdict, "ok"); // sick below
  assert.equal(resultOf("dead-block", threshold / 2, "x").verdict, "sick");
  assert.equal(resultOf("repetition", 1, "x").verdict, "sick"); // sick above
  assert.equal(resultOf("repetition", 1, "x", { threshold: 1 }).verdict, "ok");
  assert.equal(resultOf("repetition", 1, "x", { isSick: false }).verdict, "ok");
  assert.deepEqual(
    { ...unknownResult("diverging", "why"), cause: "", cure: "" },
    {
      name: "diverging",
      value: null,
      threshold: null,
      verdict: "unknown",
      finding: "why",
      cause: "",
      cure: "",
    },
  );
});

Deno.test("RunChecks says after how many epochs the validation loss was lowest", () => {
  const checks = new RunChecks();
  const warnings = [3, 2, 2.5, 2.6, 2.7].flatMap((loss, i) => {
    checks.add({ kind: "step", step: i + 1, loss: 3 - i / 2 });
    return checks.add({ kind: "evaluation", step: i + 1, epoch: 4.4 * (i + 1), loss });
  });
  assert.equal(warnings.length, 1);
  assert.match(
    warnings[0]!.message,
    /above the best, 2\.000 at step 2 after 8\.8 epochs, while .* loss 2\.700 after 22 epochs\)/,
  );
});
