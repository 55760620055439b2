import assert from "node:assert/strict";
import { BLUE, drawChart, type LegendEntry, logAxis } from "../../../train/record/chart.ts";
import { Random } from "../../../data/random.ts";

const axis = (values: readonly number[]) =>
  logAxis(values, { label: "x" }) as { domain: [number, number]; ticks: number[] };

Deno.test("logAxis() has three to eight ticks that keep a distance when its values have any range", () => {
  const random = new Random(1);
  for (let i = 0; i < 500; i++) {
    const least = 10 ** (12 * random.uniform() - 4),
      most = least * 10 ** (8 * random.uniform() ** 3);
    const { domain, ticks } = axis([most, least, least]);
    assert.ok(domain[0] < least && domain[1] > most);
    assert.ok(ticks.length >= 3 && ticks.length <= 9, `${least} to ${most}: ${ticks}`);
    const share = (value: number) => Math.log(value / domain[0]) / Math.log(domain[1] / domain[0]);
    assert.ok(share(ticks[0]!) < 0.34 && share(ticks.at(-1)!) > 0.66, `${ticks} of ${domain}`);
    for (const [i, tick] of ticks.entries()) {
      assert.ok(tick >= domain[0] && tick <= domain[1]);
      assert.ok(Math.abs(tick / Number(tick.toPrecision(4)) - 1) < 1e-9, `${tick} is round`);
      const share = Math.log(tick / (ticks[i - 1] ?? 0)) / Math.log(domain[1] / domain[0]);
      assert.ok(share >= 0.119, `${ticks} of ${domain}`);
    }
  }
});

Deno.test("logAxis() has the powers of ten when its values reach over many", () => {
  assert.deepEqual(axis([0.2, 3e4]).ticks, [1, 10, 100, 1e3, 1e4]);
  assert.deepEqual(axis([1.9, 60]).ticks, [2, 5, 10, 20, 50]);
  assert.deepEqual(axis([0.99, 8.1]).ticks, [1, 1.5, 2, 3, 5, 8]);
  assert.deepEqual(axis([0.971, 1.029]).ticks, [0.97, 0.98, 0.99, 1, 1.01, 1.02, 1.03]);
});

Deno.test("logAxis() has finite ticks when its values are the greatest or the least numbers", () => {
  for (const values of [[1e308], [1, Number.MAX_VALUE], [Number.MIN_VALUE, 1]]) {
    const { domain, ticks } = axis(values);
    assert.ok([...domain, ...ticks].every(Number.isFinite), `${domain} ${ticks}`);
  }
});

Deno.test("logAxis() has no ticks when there is nothing to draw", () => {
  for (const values of [[], [0], [NaN], [-1, 3]]) assert.deepEqual(axis(values).ticks, []);
});

const chart = (legend: readonly LegendEntry[]) =>
  drawChart({
    title: "a",
    legend,
    columns: 1,
    panel: { width: 300, height: 100 },
    panels: (plot) => [{ marks: [plot.dot([[1, 2]])] }],
  });

Deno.test("drawChart() breaks a legend into lines when it is wider than the chart", async () => {
  const entry = { text: "x".repeat(15), color: BLUE };
  const lines = async (count: number) => {
    const svg = await chart(Array(count).fill(entry));
    const places = [...svg.matchAll(/<text x="(\d+)" y="(\d+)"><tspan/g)];
    assert.equal(places.length, count);
    assert.equal(new Set(places.map(([, x, y]) => `${x} ${y}`)).size, count);
    return new Set(places.map(([, , y]) => y)).size;
  };
  assert.equal(await lines(2), 1);
  assert.equal(await lines(3), 2);
  assert.equal(await lines(5), 3);
});

Deno.test("drawChart() writes a picture for light and dark pages that a reader of XML accepts", async () => {
  const svg = await chart([{ text: "a < b & c", color: BLUE }, { text: "]]>\x1b", color: BLUE }]);
  assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" .*<\/svg>\n$/s);
  assert.match(svg, /prefers-color-scheme:dark/);
  assert.ok(svg.includes("a &lt; b &amp; c"));
  assert.ok(svg.includes("]]&gt;\\u{1b}"));
});
