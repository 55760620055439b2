import assert from "node:assert/strict";
import { loopShareOf, meanRepetition, repetitionOf } from "../../inspect/repetition.ts";

const of = (text: string) => repetitionOf(text.split(" "));

Deno.test("repetitionOf() counts distinct n-grams per n-gram", () => {
  const { distinct1, distinct2, distinct3, distinct4 } = of("a b a b c a b d");
  assert.deepEqual([distinct1, distinct2, distinct3, distinct4], [4 / 8, 5 / 7, 6 / 6, 5 / 5]);
  const short = of("a b");
  assert.deepEqual([short.distinct1, short.distinct2, short.distinct3], [1, 1, 1]);
});

Deno.test("repetitionOf() finds the longest span that occurs twice, which may overlap", () => {
  assert.equal(of("a b c d x a b c y b c d").longestRepeat, 3);
  assert.equal(of("a a a a a").longestRepeat, 4);
  assert.equal(of("a a a a a b a a a a a b").longestRepeat, 6);
  assert.equal(of("a b c").longestRepeat, 0);
  assert.equal(repetitionOf([]).longestRepeat, 0);
});

Deno.test("repetitionOf() counts the tokens of loops: three times in a row, at least eight tokens", () => {
  assert.equal(of("t t t t t t t t").loopShare, 1);
  assert.equal(of("x y t t t t t t t t").loopShare, 0.8);
  assert.equal(of("t t t t t t t").loopShare, 0); // seven tokens
  assert.equal(of("a b c a b c a b c").loopShare, 1);
  // the unit stands less than three times
  assert.equal(of("a b c a b c a b").loopShare, 0);
  assert.equal(of("a b c a b c a b v w x y z").loopShare, 0);
  assert.equal(of("a b c a b c a b c a x y").loopShare, 10 / 12); // the last time in part
  const [loop, other] = ["a b c a b c a b c", "t t t t t t t t"];
  assert.equal(of(`${loop} ${other}`).loopShare, 1);
  assert.equal(of(`${loop} x x ${other} y`).loopShare, 17 / 20);
  assert.equal(repetitionOf([]).loopShare, 0);
});

Deno.test("repetitionOf() measures numbers and words alike", () => {
  const words = "once upon a time there was a time upon a time".split(" ");
  const ids = words.map((word) => words.indexOf(word) + 50_000);
  assert.deepEqual(repetitionOf(Uint32Array.from(ids)), repetitionOf(words));
});

Deno.test("meanRepetition() measures each text alone", () => {
  const [a, b] = ["a b a b a b a b a b", "a b c d e f g h i j"],
    texts = [a!.split(" "), b!.split(" ")];
  const mean = meanRepetition(texts);
  assert.deepEqual([mean.loopShare, mean.distinct1], [0.5, (0.2 + 1) / 2]);
  assert.equal(mean.longestRepeat, 4);
  assert.throws(() => meanRepetition([]), { name: "RangeError", message: /there is none$/ });
});

Deno.test("loopShareOf() leaves out loops of longer units", () => {
  const text = "t t t t t t t t x a b a b a b a b a".split(" ");
  assert.equal(loopShareOf(text), 17 / 18);
  assert.equal(loopShareOf(text, 1), 8 / 18);
  assert.equal(loopShareOf([], 1), 0);
});
