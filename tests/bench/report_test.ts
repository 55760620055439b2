import assert from "node:assert/strict";
import {
  compare,
  comparisonLine,
  parseReport,
  profileLines,
  resultLine,
  slower,
} from "../../bench/report.ts";

const result = (name: string, ms: number) => ({ name, ms });

Deno.test("compare() pairs results by name and slower() names those beyond the tolerance", () => {
  const old = { results: [result("a", 2), result("b", 2), result("c", 2), result("gone", 1)] };
  const comparisons = compare(
    [result("new", 1), result("c", 1), result("b", 2.1), result("a", 3)],
    old,
  );
  assert.deepEqual(comparisons.map(({ name, ratio }) => [name, ratio]), [
    ["c", 0.5],
    ["b", 1.05],
    ["a", 1.5],
  ]);
  assert.deepEqual(slower(comparisons, 0.1).map(({ name }) => name), ["a"]);
  assert.deepEqual(slower(comparisons, 0.04).map(({ name }) => name), ["b", "a"]);
});

Deno.test("resultLine() gives rate and share, and fits 80 columns", () => {
  const line = resultLine({
    ...result("matmul NN f16 [4096,4096]x[4096,4096]", 4),
    work: { flops: 2 * 4096 ** 3 },
    share: 0.875,
  });
  assert.match(line, /4\.00 ms\s+34360 GFLOP\/s\s+88 %$/);
  const bytes = resultLine({ ...result("copy", 0.5), work: { bytes: 1e9 }, share: 0.05 });
  assert.match(bytes, /500 µs\s+2000\.0 GB\/s\s+5\.0 %$/);
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
      comparisonLine({ ...result("x ".repeat(60), 1), oldMs: 1, ratio: 1 }),
    ]
  ) {
    for (const part of row.split("\n")) assert.ok(part.length <= 80, part);
  }
});

Deno.test("profileLines() ends with the sum and fits 80 columns", () => {
  const lines = profileLines([
    { label: "kernels/attention/backward_query_tiles.wgsl", launches: 12, ms: 3, share: 0.75 },
    { label: "kernels/gelu/forward.wgsl", launches: 4, ms: 1, share: 0.25 },
  ]);
  assert.match(lines.at(-1)!, /sum\s+16\s+4\.00 ms/);
  for (const line of lines) assert.ok(line.length <= 80, line);
});

Deno.test("parseReport() refuses what is no report, by name", () => {
  assert.throws(() => parseReport("{", "old.json"), /Cannot read old\.json as it must be JSON/);
  for (const text of ["null", "{}", '{"results":[{"name":"a"}]}']) {
    assert.throws(() => parseReport(text, "old.json"), SyntaxError);
  }
  const report = '{"results":[{"name":"a","ms":1}]}';
  assert.deepEqual(parseReport(report, "old.json").results, [{ name: "a", ms: 1 }]);
});
