import assert from "node:assert/strict";
import type { Device } from "../../kernels/device.ts";
import { embeddingDecode } from "../../kernels/embedding/decode.ts";
import { embeddingBackward, embeddingForward } from "../../kernels/embedding/embedding.ts";
import * as reference from "../../kernels/embedding/reference.ts";
import { Program } from "../../kernels/program.ts";
import { download, type DType } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertGradient,
  device,
  freshSeed,
  poisoned,
  poisonScratch,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensorOf,
  testRandom,
} from "./harness.ts";

// f32: sums of at most 30 terms in another order; f16: y rounded to 11 bits
const TOLERANCE = { f32: 1e-5, f16: 1e-3 } as Record<string, number>;

Deno.test("reference embeddingBackward() matches central differences", () => {
  const seed = freshSeed(), random = testRandom(seed);
  const shape = { T: 2, C: 3 }, tokens = Uint32Array.of(4, 1, 4, 4);
  const wte = randomValues(random, 15), wpe = randomValues(random, 6);
  const dy = randomValues(random, 12);
  const dwte = new Float32Array(15), dwpe = new Float32Array(6);
  reference.embeddingBackward({ tokens, dy }, { dwte, dwpe }, shape);
  const y = (tables: { wte?: Float32Array; wpe?: Float32Array }) =>
    reference.embeddingForward({ tokens, wte, wpe, ...tables }, shape).y;
  assertGradient((wte) => y({ wte }), wte, dy, dwte, { what: `dwte, seed ${seed}` });
  assertGradient((wpe) => y({ wpe }), wpe, dy, dwpe, { what: `dwpe, seed ${seed}` });
});

/** Positions sorted by token, in an order of their own where tokens are equal. */
function sorted(tokens: Uint32Array): Uint32Array {
  return Uint32Array.from(tokens.keys()).sort((a, b) => tokens[a]! - tokens[b]! || a - b);
}

async function check(on: Device, dtype: DType, { B, T, V, maxT, C }: Record<string, number>) {
  const seed = freshSeed(), random = testRandom(seed), M = B! * T!;
  const tokens = Uint32Array.from({ length: M }, () => Math.floor(random() ** 2 * V!));
  tokens[0] = V! - 1;
  const values = {
    wte: randomValues(random, V! * C!),
    wpe: randomValues(random, maxT! * C!),
    dy: randomValues(random, M * C!, { dtype }),
    dwte: randomValues(random, V! * C!),
  };
  const u32 = (length: number) => ({ shape: [length], dtype: "u32" as const });
  const f32 = (rows: number) => ({ shape: [rows, C!], dtype: "f32" as const });
  const t = {
    tokens: tensorOf("tokens", u32(M), tokens),
    order: tensorOf("order", u32(M), sorted(tokens)),
    wte: tensorOf("wte", f32(V!), values.wte),
    wpe: tensorOf("wpe", f32(maxT!), values.wpe),
    dy: tensorOf("dy", { shape: [M, C!], dtype }, values.dy),
    y: poisoned("y", { shape: [M, C!], dtype }),
    dwte: tensorOf("dwte", f32(V!), values.dwte),
    dwpe: poisoned("dwpe", f32(maxT!)),
  };
  using program = new Program(on);
  embeddingForward(program, t, t, { T: T! });
  embeddingBackward(program, t, t, { T: T! });
  embeddingBackward(program, t, t, { T: T!, accumulate: true });
  program.run();
  const [y, dwte, dwpe] = await download(on, t.y, t.dwte, t.dwpe);

  const tolerance = TOLERANCE[dtype]!, what = `seed ${seed}`;
  const expected = reference.embeddingForward({ tokens, ...values }, { T: T!, C: C! });
  assertClose(y!, expected.y, tolerance, `y, ${what}`);
  const gradients = { dwte: values.dwte.slice(), dwpe: new Float32Array(maxT! * C!) };
  for (let i = 0; i < 2; i++) {
    reference.embeddingBackward({ tokens, dy: values.dy }, gradients, { T: T!, C: C! });
  }
  assertClose(dwte!, gradients.dwte, TOLERANCE.f32!, `dwte, ${what}`);
  assertClose(dwpe!, gradients.dwpe, TOLERANCE.f32!, `dwpe, ${what}`);
}

for (const dtype of REAL_TYPES) {
  for (
    const size of [
      { B: 1, T: 1, V: 1, maxT: 1, C: 4 },
      { B: 3, T: 5, V: 127, maxT: 7, C: 12 },
      { B: 2, T: 9, V: 50, maxT: 9, C: 132 },
      { B: 1, T: 129, V: 127, maxT: 200, C: 64 },
      { B: 2, T: 3, V: 9, maxT: 4, C: 260 }, // longer than a workgroup is wide
    ]
  ) {
    const name = Object.entries(size).map(([key, value]) => `${key} ${value}`).join(", ");
    Deno.test(`embedding matches the reference in ${dtype} at ${name}`, () =>
      check(device, dtype, size));
  }
  Deno.test(`embedding matches the reference in ${dtype} when wte takes three bindings`, () =>
    check({ ...device, maxBindingBytes: 4096 }, dtype, { B: 3, T: 10, V: 300, maxT: 12, C: 8 }));
}

// chunks have 16 places: runs within, of and across them, up to more chunks than there are shares
const LENGTHS = [16, 15, 1, 17, 31, 32, 1, 5, 10, 33, 65, 350, 10, 40, 3];
const MANY_LENGTHS = Array.from({ length: 28 }, () => LENGTHS).flat(); // 1,100 chunks

for (const dtype of REAL_TYPES) {
  for (
    const [where, on, V, C, lengths] of [
      ["", device, 20, 132, LENGTHS],
      [" of many chunks", device, 420, 4, MANY_LENGTHS],
      [" when dwte takes three bindings", { ...device, maxBindingBytes: 16384 }, 2500, 4, LENGTHS],
    ] as const
  ) {
    Deno.test(`embeddingBackward() sums runs of any length in ${dtype}${where}`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      const tokens = Uint32Array.from(
        lengths.flatMap((length, run) => Array(length).fill(Math.floor(run * V / lengths.length))),
      );
      const order = sorted(tokens), M = tokens.length;
      for (let i = M - 1; i > 0; i--) { // the tokens move to other positions, the runs stay
        const j = Math.floor(random() * (i + 1));
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      const shuffled = new Uint32Array(M);
      order.forEach((position, i) => shuffled[position] = tokens[i]!);
      // integers, whose sums are exact in any order
      const integers = (length: number) =>
        Float32Array.from({ length }, () => Math.floor(17 * random()) - 8);
      const values = { dy: integers(M * C), dwte: integers(V * C), dwpe: integers(C) };
      const f32 = (rows: number) => ({ shape: [rows, C], dtype: "f32" as const });
      const t = {
        tokens: tensorOf("tokens", { shape: [M], dtype: "u32" }, shuffled),
        order: tensorOf("order", { shape: [M], dtype: "u32" }, order),
        dy: tensorOf("dy", { shape: [M, C], dtype }, values.dy),
        dwte: tensorOf("dwte", f32(V), values.dwte),
        dwpe: tensorOf("dwpe", f32(1), values.dwpe),
      };
      using program = new Program(on);
      poisonScratch(program);
      embeddingBackward(program, t, t, { T: 1, accumulate: true });
      program.run();
      const [dwte, dwpe] = await download(on, t.dwte, t.dwpe);
      reference.embeddingBackward({ tokens: shuffled, dy: values.dy }, values, { T: 1, C });
      assert.deepEqual(dwte, values.dwte, `dwte, seed ${seed}`);
      assert.deepEqual(dwpe, values.dwpe, `dwpe, seed ${seed}`);
    });
  }
}

for (const dtype of REAL_TYPES) {
  Deno.test(`embeddingDecode() adds up the rows that the cursors point at in ${dtype}`, async () => {
    const seed = freshSeed(), random = testRandom(seed);
    const B = 2, N = 9, S = 3, V = 300, maxT = 12, C = 8;
    const tokens = Uint32Array.from({ length: B * N }, () => Math.floor(random() * V));
    const cursors = [[2, 2], [5, 1]] as const; // next token to read, token at position 0
    const wte = randomValues(random, V * C), wpe = randomValues(random, maxT * C);
    const t = {
      tokens: tensorOf("tokens", { shape: [B, N], dtype: "u32" }, tokens),
      cursors: tensorOf("cursors", { shape: [B, 2], dtype: "u32" }, cursors.flat()),
      wte: tensorOf("wte", { shape: [V, C], dtype: "f32" }, wte),
      wpe: tensorOf("wpe", { shape: [maxT, C], dtype: "f32" }, wpe),
    };
    const expected = cursors.flatMap(([next, start], b) =>
      Array.from({ length: S * C }, (_, i) => {
        const place = next + Math.floor(i / C), c = i % C;
        return wte[tokens[b * N + place]! * C + c]! + wpe[(place - start) * C + c]!;
      })
    );
    for (const on of [device, { ...device, maxBindingBytes: 4096 }]) { // wte in one binding, in three
      const y = poisoned("y", { shape: [B * S, C], dtype });
      using program = new Program(on);
      embeddingDecode(program, t, { y });
      program.run();
      const [values] = await download(on, y);
      assertClose(values!, expected, TOLERANCE[dtype]!, `y, seed ${seed}`);
    }
  });
}

Deno.test("embeddingForward() reaches every row beyond one row of workgroups", async () => {
  const M = 32768 * 16 + 3, C = 4; // 32768 workgroups of 16 rows, and three rows more
  const f32 = (rows: number) => ({ shape: [rows, C], dtype: "f32" as const });
  const tokens = Uint32Array.from({ length: M }, (_, m) => m % 2);
  const t = {
    tokens: tensorOf("tokens", { shape: [M], dtype: "u32" }, tokens),
    wte: tensorOf("wte", f32(2), Float32Array.from({ length: 2 * C }, (_, i) => Math.floor(i / C))),
    wpe: tensorOf("wpe", f32(1), new Float32Array(C).fill(2)),
    y: tensorOf("y", f32(M), new Float32Array(M * C).fill(NaN)),
  };
  const [y] = await runProgram((program) => embeddingForward(program, t, t, { T: 1 }), t.y);
  assert.equal(y!.findIndex((v, i) => v !== Math.floor(i / C) % 2 + 2), -1);
});

Deno.test("embeddingBackward() sets positions beyond one row of workgroups", async () => {
  const maxT = 32768 + 3, C = 256; // 32768 workgroups of 64 vectors, and three more
  const u32 = (length: number) => ({ shape: [length], dtype: "u32" as const });
  const f32 = (rows: number) => ({ shape: [rows, C], dtype: "f32" as const });
  const t = {
    tokens: tensorOf("tokens", u32(1), [0]),
    order: tensorOf("order", u32(1), [0]),
    dy: tensorOf("dy", f32(1), new Float32Array(C).fill(3)),
    dwte: tensorOf("dwte", f32(1), new Float32Array(C)),
    dwpe: tensorOf("dwpe", f32(maxT), new Float32Array(maxT * C).fill(NaN)),
  };
  const [dwpe] = await runProgram(
    (program) => embeddingBackward(program, t, t, { T: 1 }),
    t.dwpe,
  );
  assert.equal(dwpe!.findIndex((v, i) => v !== (i < C ? 3 : 0)), -1);
});

Deno.test("embeddingForward() leaves rows of tokens beyond the vocabulary alone", async () => {
  const like = { shape: [2, 4], dtype: "f32" } as const;
  const t = {
    tokens: tensorOf("tokens", { shape: [2], dtype: "u32" }, [1, 2]),
    wte: tensorOf("wte", like, [1, 2, 3, 4, 5, 6, 7, 8]),
    wpe: tensorOf("wpe", like, new Array(8).fill(0)),
    y: poisoned("y", like),
  };
  const [y] = await runProgram((program) => embeddingForward(program, t, t, { T: 2 }), t.y);
  assert.deepEqual([...y!], [5, 6, 7, 8, NaN, NaN, NaN, NaN]);
});

Deno.test("embeddingBackward() throws on a batch that ends within a sequence", () => {
  const u32 = (length: number) => poisoned("tokens", { shape: [length], dtype: "u32" });
  const f32 = (rows: number) => poisoned("table", { shape: [rows, 4], dtype: "f32" });
  assert.throws(
    () =>
      embeddingBackward(
        new Program(device),
        { tokens: u32(4), order: u32(4), dy: f32(4) },
        { dwte: f32(9), dwpe: f32(3) },
        { T: 3 },
      ),
    {
      name: "RangeError",
      message:
        'Cannot run embeddingBackward as "tokens" must hold whole sequences of 3: current length is 4',
    },
  );
});

Deno.test("embeddingForward() throws on more positions than the table has", () => {
  const tokens = poisoned("tokens", { shape: [4], dtype: "u32" });
  const like = (rows: number) => poisoned("wpe", { shape: [rows, 4], dtype: "f32" });
  assert.throws(
    () =>
      embeddingForward(new Program(device), { tokens, wte: like(9), wpe: like(3) }, {
        y: like(4),
      }, { T: 4 }),
    {
      name: "RangeError",
      message:
        'Cannot run embeddingForward as T must be 1 to 3, the positions of "wpe": current value is 4',
    },
  );
});

Deno.test("embeddingForward() throws on a width that is no multiple of four", () => {
  const tokens = poisoned("tokens", { shape: [4], dtype: "u32" });
  const like = (name: string) => poisoned(name, { shape: [4, 6], dtype: "f32" });
  assert.throws(
    () =>
      embeddingForward(new Program(device), { tokens, wte: like("wte"), wpe: like("wpe") }, {
        y: like("y"),
      }, { T: 4 }),
    {
      name: "RangeError",
      message:
        'Cannot run embeddingForward as the width of "wte" must be a multiple of four: current width is 6',
    },
  );
});
