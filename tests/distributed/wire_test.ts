import assert from "node:assert/strict";
import { F16Wire } from "../../distributed/wire.ts";
import { inProcess } from "./in_process.ts";

/** Numbers of a rank in a sum. */
type NumbersOf = (step: number, rank: number) => Float32Array<ArrayBuffer>;

/** Adds numbers up in several sums. @returns for each rank the sums, and the residual at the end. */
function sums(size: number, steps: number, numbersOf: NumbersOf, scaleOf = (_step: number) => 1) {
  return inProcess(size, async (transport) => {
    const wire = new F16Wire(numbersOf(0, 0).length), all: number[][] = [];
    for (let step = 0; step < steps; step++) {
      const scale = scaleOf(step);
      const values = numbersOf(step, transport.rank).map((value) => scale * value);
      await wire.sum(transport, values, scale);
      all.push(Array.from(values, (value) => value / scale));
    }
    return { sums: all, residual: wire.residual };
  });
}

Deno.test("F16Wire.sum() carries what it rounds away: totals of many sums are those of f32", async () => {
  const size = 3, steps = 3, length = 2 ** 20 + 5; // in two chunks
  const numbersOf: NumbersOf = (step, rank) => {
    const values = new Float32Array(length), factor = 0.618 + step / 7 + rank / 11;
    for (let i = 0; i < length; i++) values[i] = (factor * i) % 1 - 0.3;
    return values;
  };
  const ranks = await sums(size, steps, numbersOf, (step) => 2 ** (8 * step));
  for (const { sums } of ranks) assert.deepEqual(sums, ranks[0]!.sums);
  const exact = new Float64Array(length);
  for (let step = 0; step < steps; step++) {
    for (let rank = 0; rank < size; rank++) {
      for (const [i, value] of numbersOf(step, rank).entries()) exact[i]! += value;
    }
  }
  let error = 0, rounded = 0;
  for (const [i, expected] of exact.entries()) {
    const sent = ranks[0]!.sums.reduce((sum, values) => sum + values[i]!, 0);
    const left = ranks.reduce((sum, { residual }) => sum + residual[i]!, 0);
    error = Math.max(error, Math.abs(sent + left - expected));
    rounded = Math.max(rounded, Math.abs(left));
  }
  assert.ok(error < 1e-6, `totals differ by ${error}`);
  assert.ok(rounded > 1e-5 && rounded < 1e-2, `residuals are up to ${rounded}`);
});

Deno.test("F16Wire.sum() sends numbers that f16 rounds to zero later instead of never", async () => {
  const small = 1e-12, steps = 200; // half the least number of f16 beside 1, or less
  const [{ sums: all }] = await sums(2, steps, () => Float32Array.of(1, small)) as [
    Awaited<ReturnType<typeof sums>>[number],
  ];
  assert.equal(all[0]![1], 0);
  const total = all.reduce((sum, [, value]) => sum + value!, 0);
  assert.ok(Math.abs(total / (2 * steps * small) - 1) < 0.05, `${total}`);
});

Deno.test("F16Wire.sum() makes all numbers NaN and keeps the residual when one is not finite", async () => {
  for (const bad of [NaN, Infinity]) {
    const numbersOf: NumbersOf = (step, rank) =>
      Float32Array.of(1 / 3, step === 1 && rank === 1 ? bad : 0.1, 1e-5);
    const before = await sums(2, 1, numbersOf), ranks = await sums(2, 2, numbersOf);
    for (const [rank, { sums, residual }] of ranks.entries()) {
      assert.deepEqual(sums[1], [NaN, NaN, NaN]);
      assert.deepEqual(residual, before[rank]!.residual);
    }
  }
});
