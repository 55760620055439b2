import assert from "node:assert/strict";
import { UserError } from "../../files/user_error.ts";
import {
  compare,
  comparisonLine,
  detailLines,
  parseReport,
  percent,
  profileLines,
  RECOMPUTATION_HEAD,
  recomputationLine,
  recomputations,
  resultLine,
  SCALING_HEAD,
  scalingLine,
  slower,
  time,
} from "../../bench/report.ts";
import { point, report } from "./fixtures.ts";

const result = (name: string, ms: number, rangeMs?: [number, number]) => ({
  name,
  ms,
  ...(rangeMs ? { rangeMs } : {}),
});

Deno.test("compare() pairs results and points of scaling by name", () => {
  const old = {
    results: [result("a", 2), result("b", 2), result("c", 2), result("gone", 1)],
    scaling: { launchMs: 1, points: [{ ...point, ms: 4 }] },
  };
  const comparisons = compare({
    results: [result("new", 1), result("c", 1), result("b", 2.1), result("a", 3)],
    scaling: { launchMs: 1, points: [{ ...point, ms: 2 }] },
  }, old);
  assert.deepEqual(comparisons.map(({ name, ratio }) => [name, ratio]), [
    ["c", 0.5],
    ["b", 1.05],
    ["a", 1.5],
    ["scaling width 512", 0.5],
  ]);
});

Deno.test("slower() returns the benchmarks beyond the tolerance whose least sample is slower", () => {
  const old = { results: ["a", "b", "c", "once", "once more"].map((name) => result(name, 2)) };
  const comparisons = compare({
    results: [
      result("a", 3, [2.9, 3.1]),
      result("b", 3, [1.9, 4]), // one sample was as fast as ever
      result("c", 2.15, [2.1, 2.2]),
      result("once", 2.4), // a single sample
      result("once more", 2.6),
    ],
  }, old);
  const names = (tolerance: number) => slower(comparisons, tolerance).map(({ name }) => name);
  assert.deepEqual(names(0.1), ["a", "once more"]);
  assert.deepEqual(names(0.05), ["a", "c", "once more"]);
  assert.deepEqual(names(0.5), []); // at most by the tolerance
  assert.deepEqual(slower([{ name: "a", oldMs: 2, ms: 3, ratio: 1.5, leastRatio: 1 }], 0.1), []);
});

Deno.test("comparisonLine() says how many times slower or faster a benchmark became", () => {
  const line = (ms: number, ratio: number) =>
    comparisonLine({ name: "a", oldMs: 2, ms, ratio, leastRatio: ratio }).replace(/ +/g, " ");
  assert.equal(line(3, 1.5), "a 2.00 ms 3.00 ms 1.50 × slower");
  assert.equal(line(1, 0.5), "a 2.00 ms 1.00 ms 2.00 × faster");
  assert.equal(line(2, 1), "a 2.00 ms 2.00 ms 1.00 ×");
  assert.equal(line(2.01, 1.005), "a 2.00 ms 2.01 ms 1.00 × slower");
  assert.equal(line(1999, 999.5), "a 2.00 ms 1999 ms 999+ × slower");
});

Deno.test("resultLine() shows rate and share, and fits 80 columns", () => {
  const line = resultLine({
    ...result("matmul NN f16 [4096,4096]x[4096,4096]", 4),
    work: { flops: 2 * 4096 ** 3 },
    share: 0.875,
  });
  assert.match(line, /4\.00 ms\s+34360 GFLOP\/s\s+88 %$/);
  const bytes = resultLine({ ...result("copy", 0.5), work: { bytes: 1e9 }, share: 0.05 });
  assert.match(bytes, /500 µs\s+2000\.0 GB\/s\s+5\.0 %$/);
  const lengths = [49, 50].map((length) =>
    resultLine(result("n".repeat(length), 1)).split("\n").length
  );
  assert.deepEqual(lengths, [1, 2]);
  const long = resultLine({
    ...result(`head and loss, ${"forward and backward, ".repeat(5)}f16`, 123456),
    work: { flops: 3e15 },
    share: 0.5,
  });
  for (
    const row of [
      line,
      bytes,
      long,
      comparisonLine({ ...result("x ".repeat(60), 1), oldMs: 1, ratio: 1, leastRatio: 1 }),
      ...detailLines({
        ...result("cold start", 1),
        parts: {
          modules: 1,
          device: 2,
          parameters: 3584,
          compilation: 8521,
          batch: 16.6,
          step: 360,
        },
      }),
      ...detailLines({
        ...result("train step", 1),
        choices: Object.fromEntries([...Array(9).keys()].map((i) => [i, `64x64 of 128/${i}`])),
        planned: { activations: 1.234e9, step: 5.678e12 },
        muon: { ms: 390, floorMs: 300 },
      }),
      RECOMPUTATION_HEAD,
      ...recomputations(report.results).map(recomputationLine),
      SCALING_HEAD,
      scalingLine({ ...point, value: 16384, batchSize: 1024, sequenceLength: 32768 }),
    ]
  ) {
    for (const part of row.split("\n")) assert.ok(part.length <= 80, part);
  }
});

Deno.test("detailLines() shows what was measured beside the time", () => {
  const lines = detailLines({
    ...result("a", 1),
    choices: { "matmul NT": "128x256/1", "matmul NN": "lanes", "matmul TN": "128x256/1" },
    ...{ gpuMs: 0.5, idleShare: 0.5, launches: 12, peakBytes: 3e9 },
    planned: { activations: 2e9, step: 5e9 },
    muon: { ms: 39, floorMs: 30 },
    parts: { device: 100, step: 20 },
    compile: { "kernels/matmul/lanes.wgsl": 500, "a.wgsl": 0.25 },
  });
  assert.deepEqual(lines, [
    "  by 128x256/1, lanes",
    "  on the device 500 µs; it is idle 50 % of the time",
    "  12 launches, buffers of 3.00 GB",
    "  planned: activations of 2.00 GB, a whole step of 5.00 GB",
    "  Muon's part 39.0 ms, 1.30 times its floor of 30.0 ms",
    "  device 100 ms, step 20.0 ms",
    "  compiled the longest:",
    "    matmul/lanes.wgsl 500 ms",
    "    a.wgsl 250 µs",
  ]);
});

Deno.test("scalingLine() shows a point below the heads of its columns", () => {
  const fields = (line: string) => line.trim().split(/ {2,}/);
  assert.deepEqual(fields(SCALING_HEAD), [
    ...["axis", "batch", "device", "wall", "model", "launches"],
  ]);
  assert.deepEqual(fields(scalingLine(point)), [
    ...["width", "512", "32x128", "16.0 ms", "20.0 ms", "8.00 ms", "226"],
  ]);
});

Deno.test("percent() has a decimal below a tenth", () => {
  assert.deepEqual([0.0999, 0.1, 1.25].map(percent), ["10.0 %", "10 %", "125 %"]);
});

Deno.test("recomputations() compares a step that recomputes with the one that keeps activations", () => {
  const [only, ...others] = recomputations(report.results);
  assert.deepEqual(others, []);
  assert.deepEqual(only!.ratios, [1.2, 0.25, 0.5]);
  assert.match(recomputationLine(only!), /recompute block\n? +1\.20 +0\.25 +0\.50$/);
  const alone = report.results.filter(({ name }) => name.includes("recompute"));
  assert.deepEqual(recomputations(alone), []);
});

Deno.test("profileLines() ends with the sum and fits 80 columns", () => {
  const lines = profileLines([
    { label: "kernels/attention/backward_products.wgsl", launches: 12, ms: 3, share: 0.75 },
    { label: "kernels/swiglu/forward.wgsl", launches: 4, ms: 1, share: 0.25 },
  ]);
  assert.match(lines[1]!, / {2}attention\/backward_products\.wgsl +12 +3\.00 ms +75 %$/);
  assert.match(lines.at(-1)!, /sum\s+16\s+4\.00 ms/);
  for (const line of lines) assert.ok(line.length <= 80, line);
});

Deno.test("parseReport() throws on a file that is no report, and names it", () => {
  assert.throws(() => parseReport("{", "old.json"), /Cannot read old\.json as it must be JSON/);
  for (const text of ["null", "{}", '{"device":{"name":"G"},"results":[{"name":"a"}]}']) {
    assert.throws(() => parseReport(text, "old.json"), UserError);
  }
  const old = '{"device":{"name":"G"},"results":[{"name":"a","ms":1}]}';
  assert.deepEqual(parseReport(old, "old.json").results, [{ name: "a", ms: 1 }]);
  assert.equal(parseReport(old, "old.json").device.provider, "native");
});

Deno.test("time() has no exponent if it rounds up to the next unit", () => {
  assert.equal(time(0.9995), "1.00 ms");
  assert.equal(time(0.9994), "999 µs");
  assert.equal(time(999.4), "999 ms");
  assert.equal(time(999.5), "1000 ms");
  assert.equal(time(9999.5), "10.0 s");
});
