import assert from "node:assert/strict";
import { fromQ8, scalesOf, toQ8 } from "../../../model/files/q8_0.ts";

// what tests/golden/make_gguf.py found llama.cpp's own package to do
const { values, q8_0 } = JSON.parse(
  Deno.readTextFileSync(new URL("../../golden/quantized.json", import.meta.url)),
) as Record<"values" | "q8_0", string>;
const floats = new Float32Array(Uint8Array.fromBase64(values).buffer);
const blocks = Uint8Array.fromBase64(q8_0);

Deno.test("toQ8() gives the bytes of llama.cpp's package", () => {
  assert.deepEqual(toQ8(floats), blocks);
});

Deno.test("fromQ8() gives back elements within half a step of their block", () => {
  const again = fromQ8((start, end) => blocks.slice(start, end), 0, floats.length);
  for (let i = 0; i < floats.length; i++) {
    const first = i - i % 32, block = floats.subarray(first, first + 32);
    const most = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    // half a step, and the rounding of the scale to f16, times 127 at most; below 6e-8 f16 is zero
    const bound = most * (0.5 / 127 + 2 ** -11) + 127 * 2 ** -25;
    assert.ok(Math.abs(again[i]! - floats[i]!) <= bound, `${i}: ${again[i]}, ${floats[i]}`);
  }
});

Deno.test("scalesOf() shows elements that are not finite", () => {
  for (const wrong of [NaN, Infinity, -Infinity]) {
    const values = new Float32Array(64).fill(1);
    values[40] = wrong;
    const [first, second] = scalesOf(toQ8(values));
    assert.ok(Math.abs(first! - 1 / 127) < 1e-5);
    assert.ok(!Number.isFinite(second!), `${wrong} gives ${second}`);
  }
});
