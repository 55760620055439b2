import assert from "node:assert/strict";
import { figuresOf, modelledTrainings } from "../../bench/ranks_cost.ts";
import { ranksSection } from "../../bench/ranks_markdown.ts";
import { drawRanks } from "../../bench/ranks_plot.ts";
import { pytorch } from "./fixtures.ts";
import { ranksReports } from "./ranks_fixture.ts";

const reports = ranksReports(), { report } = reports;

Deno.test("ranksSection() has measured steps, the exchange by parts, the figures and the model", () => {
  const section = ranksSection({ name: "ranks_a", ...reports, ddp: undefined });
  const row = (start: string) => {
    const line = section.split("\n").find((line) => line.startsWith(`| ${start} `));
    return line!.split("|").slice(2, -1).map((cell) => cell.trim());
  };
  assert.deepEqual(row("gpt2 8x1024 x 16").slice(0, 5), [
    ...["2464 ms", "3080 ms", "16,000", "80 %", "12 %"],
  ]);
  assert.deepEqual(row("gpt2 8x1024 x 16, DiLoCo every 50").slice(3, 5), ["98 %", "2.0 %"]);
  assert.deepEqual(row("exchange of 123.7 M floats"), [
    "11.0 ms",
    "495 ms",
    "495 ms",
    "495 ms",
    "1496 ms",
  ]);
  assert.deepEqual(row("a call of MPI from Deno"), ["20.0 µs", "measured"]);
  assert.deepEqual(row("reading back over PCIe, without copies on the host"), [
    ...["11.0 ms and 4.00 GB/s", "measured"],
  ]);
  assert.match(row("network of 100 Gbit/s")[1]!, /IEEE 802\.3ba$/);
  assert.equal(row("gpt2 8x1024 x 16, 10 Gbit/s").length, 9);
});

Deno.test("ranksSection() compares with PyTorch's DDP if there is a report", () => {
  const step = "train step gpt2 8x1024 x 16, eager fp16 autocast";
  const ddp = {
    ...pytorch,
    results: [{ name: `${step}, DDP, 2 ranks`, ms: 800 }, { name: `${step}, 1 rank`, ms: 760 }],
  };
  const section = ranksSection({ name: "ranks_a", ...reports, ddp });
  assert.match(section, /^\| gpt2 8x1024 x 16 .* 800 ms \| +95 % \|$/m);
  assert.match(section, /^\| mini 32x128 x 16 .* \| +\| +\|$/m);
});

Deno.test("drawRanks() draws a panel per training, with measured dots", async () => {
  const title = "Many ranks";
  const svg = await drawRanks(report, figuresOf(reports), modelledTrainings(report), {
    title,
  });
  assert.match(svg, /^<svg [^>]*viewBox="0 0 990 \d+"/);
  for (const text of ["mini 32x128 x 16", "gpt2 8x1024 x 16", "gpt2-xl 8x1024 x 16, scaled"]) {
    assert.ok(svg.includes(`ranks: ${text}`), text);
  }
  assert.equal(svg.match(/<circle/g)?.length, 2 * 3);
});
