import assert from "node:assert/strict";
import { hash, permute, Random } from "../../data/random.ts";
import { freshSeed } from "../seeds.ts";

Deno.test("hash(), Random and permute() give the numbers on which runs and data sets depend", () => {
  // a resumed run, and the sample of stories, depend on every bit of them
  assert.deepEqual([hash(), hash(0), hash(1, 2), hash(2, 1)], [
    ...[2654435769, 2556313275, 2051221669, 1518083867],
  ]);
  const random = new Random(1, 2);
  assert.deepEqual([random.next(), random.next(), random.below(1000), random.uniform()], [
    ...[89350283, 3671326227, 736, 0.002331523742968078],
  ]);
  assert.deepEqual(Array.from({ length: 8 }, (_, i) => permute(i, 8, 3, 1)), [
    7,
    4,
    1,
    0,
    3,
    6,
    5,
    2,
  ]);
  assert.deepEqual(Array.from({ length: 3 }, (_, i) => permute(i, 3, 3, 1)), [0, 2, 1]);
});

/** Draws per check, of which one in 10¹¹ fails by chance: limits are this many standard deviations. */
const DRAWS = 41_000, DEVIATIONS = 7;

Deno.test("Random.below() draws each number with the same probability", () => {
  const seed = freshSeed(), random = new Random(seed);
  // of three quarters of 2³² the first third would otherwise come up twice as often
  const thirds = [0, 0, 0], n = 3 * 2 ** 30;
  for (let i = 0; i < DRAWS; i++) thirds[Math.floor(random.below(n) / 2 ** 30)]!++;
  const deviation = Math.sqrt(DRAWS * 2 / 9);
  for (const count of thirds) {
    assert.ok(Math.abs(count - DRAWS / 3) < DEVIATIONS * deviation, `${thirds}, seed ${seed}`);
  }
});

Deno.test("Random.uniform() is in [0, 1) with the mean and deviation of a uniform distribution", () => {
  const seed = freshSeed(), random = new Random(seed);
  let sum = 0, squares = 0;
  for (let i = 0; i < DRAWS; i++) {
    const value = random.uniform();
    assert.ok(value >= 0 && value < 1, `seed ${seed}`);
    sum += value - 0.5;
    squares += (value - 0.5) ** 2 - 1 / 12;
  }
  assert.ok(Math.abs(sum) < DEVIATIONS * Math.sqrt(DRAWS / 12), `mean, seed ${seed}`);
  assert.ok(Math.abs(squares) < DEVIATIONS * Math.sqrt(DRAWS / 180), `variance, seed ${seed}`);
});

Deno.test("permute() reaches every place exactly once", () => {
  for (const n of [1, 2, 3, 17, 1000]) {
    const places = Array.from({ length: n }, (_, i) => permute(i, n, 4, 2));
    assert.deepEqual([...places].sort((a, b) => a - b), places.map((_, i) => i));
  }
});

Deno.test("permute() permutes more than 2³² elements", () => {
  const n = 2 ** 33 + 9, seed = freshSeed();
  const places = Array.from({ length: 5000 }, (_, i) => permute(i * 1_700_009, n, seed));
  assert.equal(new Set(places).size, places.length, `seed ${seed}`);
  assert.ok(places.every((place) => place >= 0 && place < n), `seed ${seed}`);
  assert.ok(places.filter((place) => place > n / 2).length > 2000, `seed ${seed}`);
});
