import assert from "node:assert/strict";
import type { Device } from "../../kernels/device.ts";
import { embeddingDecode } from "../../kernels/embedding/decode.ts";
import { embeddingBackward, embeddingForward } from "../../kernels/embedding/embedding.ts";
import * as reference from "../../kernels/embedding/reference.ts";
import { Program } from "../../kernels/program.ts";
import type { DType } from "../../kernels/tensor.ts";
import {
  assertComputes,
  assertGradient,
  device,
  randomIntegers,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";

// f32: sums of at most 30 terms in another order; f16: y rounded to 11 bits
const TOLERANCE = { f32: 1e-5, f16: 1e-3 } as Record<string, number>;

Deno.test(
  "reference embeddingBackward() matches central differences",
  withRandom((random) => {
    const shape = { T: 4, C: 3 }, tokens = Uint32Array.of(4, 1, 4, 4), positions = [0, 1, 0, 1];
    const wte = randomValues(random, 15), wpe = randomValues(random, 6);
    const dy = randomValues(random, 12);
    const dwte = new Float32Array(15), dwpe = new Float32Array(6);
    reference.embeddingBackward({ tokens, positions, dy }, { dwte, dwpe }, shape);
    const y = (tables: { wte?: Float32Array; wpe?: Float32Array }) =>
      reference.embeddingForward({ tokens, positions, wte, wpe, ...tables }, shape).y;
    assertGradient((wte) => y({ wte }), wte, dy, dwte, { what: "dwte" });
    assertGradient((wpe) => y({ wpe }), wpe, dy, dwpe, { what: "dwpe" });
  }),
);

/** Positions sorted by token, and positions of equal tokens in ascending order. */
function sorted(tokens: Uint32Array): Uint32Array {
  return Uint32Array.from(tokens.keys()).sort((a, b) => tokens[a]! - tokens[b]! || a - b);
}

interface Sizes {
  B: number;
  T: number;
  V: number;
  maxT: number;
  C: number;
  /** Whether there are wpe and dwpe. */
  positions?: boolean;
}

async function check(
  random: () => number,
  on: Device,
  dtype: DType,
  { B, T, V, maxT, C, positions = true }: Sizes,
) {
  const M = B * T, tokens = Uint32Array.from({ length: M }, () => Math.floor(random() ** 2 * V));
  tokens[0] = V - 1;
  const wte = randomValues(random, V * C), wpe = randomValues(random, maxT * C);
  const dy = randomValues(random, M * C, { dtype }), dwte = randomValues(random, V * C);
  const t = tensors({
    tokens: [[M], "u32", tokens],
    order: [[M], "u32", sorted(tokens)],
    wte: [[V, C], "f32", wte],
    wpe: [[maxT, C], "f32", wpe],
    dy: [[M, C], dtype, dy],
    y: [[M, C], dtype],
    dwte: [[V, C], "f32", dwte],
    dwpe: [[maxT, C], "f32"],
  });
  const absent = positions ? {} : { wpe: undefined, dwpe: undefined };
  const { y } = reference.embeddingForward({ tokens, wte, wpe, ...absent }, { T, C });
  const gradients = { dwte: dwte.slice(), dwpe: new Float32Array(maxT * C) };
  for (let i = 0; i < 2; i++) reference.embeddingBackward({ tokens, dy }, gradients, { T, C });
  await assertComputes(
    (program) => {
      const given = { ...t, ...absent };
      embeddingForward(program, given, given, { T });
      embeddingBackward(program, given, given, { T });
      embeddingBackward(program, given, given, { T, accumulate: true });
    },
    [
      [t.y, y, TOLERANCE[dtype]!],
      [t.dwte, gradients.dwte, TOLERANCE.f32!],
      ...(positions ? [[t.dwpe, gradients.dwpe, TOLERANCE.f32!] as const] : []),
    ],
    { on },
  );
}

for (const dtype of REAL_TYPES) {
  Deno.test(
    `embedding in ${dtype} adds the embeddings of given positions, whose gradient is that of tokens`,
    withRandom(async (random) => {
      const [M, T, V, maxT, C] = [66, 33, 11, 40, 20];
      const tokens = Uint32Array.from({ length: M }, () => Math.floor(random() * V));
      const positions = Uint32Array.from({ length: M }, (_, m) => m % T < 20 ? m % T : m % T - 20);
      const wte = randomValues(random, V * C), wpe = randomValues(random, maxT * C);
      const dy = randomValues(random, M * C, { dtype });
      const { y } = reference.embeddingForward({ tokens, positions, wte, wpe }, { T, C });
      const gradients = { dwte: new Float32Array(V * C), dwpe: new Float32Array(maxT * C) };
      reference.embeddingBackward({ tokens, positions, dy }, gradients, { T, C });
      const t = tensors({
        tokens: [[M], "u32", tokens],
        positions: [[M], "u32", positions],
        order: [[M], "u32", sorted(positions)],
        wte: [[V, C], "f32", wte],
        wpe: [[maxT, C], "f32", wpe],
        dy: [[M, C], dtype, dy],
        y: [[M, C], dtype],
        dwpe: [[maxT, C], "f32", 0],
      });
      const { order, dy: gradient } = t;
      await assertComputes(
        (program) => {
          embeddingForward(program, t, t, { T });
          const byPosition = { tokens: t.positions, order, dy: gradient };
          embeddingBackward(program, byPosition, { dwte: t.dwpe }, { T });
        },
        [[t.y, y, TOLERANCE[dtype]!], [t.dwpe, gradients.dwpe, TOLERANCE.f32!]],
      );
    }),
  );
}

for (const dtype of REAL_TYPES) {
  for (
    const size of [
      { B: 1, T: 1, V: 1, maxT: 1, C: 4 },
      { B: 3, T: 5, V: 127, maxT: 7, C: 12 },
      { B: 2, T: 9, V: 50, maxT: 9, C: 132 },
      { B: 1, T: 129, V: 127, maxT: 200, C: 64 },
      { B: 3, T: 5, V: 127, maxT: 7, C: 12, positions: false },
      { B: 2, T: 3, V: 9, maxT: 4, C: 260 }, // longer than a workgroup is wide
    ]
  ) {
    const name = Object.entries(size).map(([key, value]) => `${key} ${value}`).join(", ");
    Deno.test(
      `embedding matches the reference in ${dtype} at ${name}`,
      withRandom((random) => check(random, device, dtype, size)),
    );
  }
  Deno.test(
    `embedding matches the reference in ${dtype} if wte needs three bindings`,
    withRandom((random) => {
      const size = { B: 3, T: 10, V: 300, maxT: 12, C: 8 };
      return check(random, { ...device, maxBindingBytes: 4096 }, dtype, size);
    }),
  );
}

// chunks have 16 places, blocks 128: runs within, of and across both, up to more blocks than there are shares or
// invocations
const LENGTHS = [16, 15, 1, 17, 31, 32, 1, 5, 10, 33, 65, 350, 10, 128, 144, 3];
const MANY_LENGTHS = [...LENGTHS, 1200, ...LENGTHS, 16640, ...LENGTHS];

for (const dtype of REAL_TYPES) {
  for (
    const [where, on, V, C, lengths] of [
      ["", device, 20, 132, LENGTHS],
      [" of many blocks", device, 60, 12, MANY_LENGTHS],
      [" if dwte needs three bindings", { ...device, maxBindingBytes: 16384 }, 2500, 4, LENGTHS],
    ] as const
  ) {
    Deno.test(
      `embeddingBackward() sums runs of any length in ${dtype}${where}`,
      withRandom(async (random) => {
        const runs = Uint32Array.from(
          lengths.flatMap((length, run) =>
            Array(length).fill(Math.floor(run * V / lengths.length))
          ),
        );
        const order = sorted(runs), M = runs.length;
        for (let i = M - 1; i > 0; i--) { // the tokens move to other positions, the runs stay
          const j = Math.floor(random() * (i + 1));
          [order[i], order[j]] = [order[j]!, order[i]!];
        }
        const tokens = new Uint32Array(M);
        order.forEach((position, i) => tokens[position] = runs[i]!);
        const dy = randomIntegers(random, M * C);
        const sums = { dwte: randomIntegers(random, V * C), dwpe: randomIntegers(random, C) };
        const t = tensors({
          tokens: [[M], "u32", tokens],
          order: [[M], "u32", order],
          dy: [[M, C], dtype, dy],
          dwte: [[V, C], "f32", sums.dwte],
          dwpe: [[1, C], "f32", sums.dwpe],
        });
        reference.embeddingBackward({ tokens, dy }, sums, { T: 1, C });
        await assertComputes(
          (program) => embeddingBackward(program, t, t, { T: 1, accumulate: true }),
          [[t.dwte, sums.dwte, 0], [t.dwpe, sums.dwpe, 0]],
          { on },
        );
      }),
    );
  }
}

for (const dtype of REAL_TYPES) {
  Deno.test(
    `embeddingDecode() adds the rows at the cursors in ${dtype}`,
    withRandom(async (random) => {
      const B = 2, N = 9, S = 3, V = 300, maxT = 12, C = 8;
      const tokens = Uint32Array.from({ length: B * N }, () => Math.floor(random() * V));
      const cursors = [[2, 2, 1, 0], [5, 1, 0, 0]] as const; // next token, that at position 0, slot
      const wte = randomValues(random, V * C), wpe = randomValues(random, maxT * C);
      const expected = cursors.flatMap(([next, start, slot]) =>
        Array.from({ length: S * C }, (_, i) => {
          const place = next + Math.floor(i / C), c = i % C;
          return wte[tokens[slot * N + place]! * C + c]! + wpe[(place - start) * C + c]!;
        })
      );
      const rows = expected.map((value, i) => {
        const b = Math.floor(i / S / C), [next, start] = cursors[b]!;
        return value - wpe[(next - start) * C + i % (S * C)]!;
      });
      for (const maxBindingBytes of [device.maxBindingBytes, 4096]) { // wte in one binding, in three
        const t = tensors({
          tokens: [[B, N], "u32", tokens],
          cursors: [[B, 4], "u32", cursors.flat()],
          wte: [[V, C], "f32", wte],
          wpe: [[maxT, C], "f32", wpe],
          y: [[B * S, C], dtype],
        });
        await assertComputes(
          (program) => embeddingDecode(program, t, t),
          [[t.y, expected, TOLERANCE[dtype]!]],
          { on: { ...device, maxBindingBytes } },
        );
        await assertComputes(
          (program) => embeddingDecode(program, { ...t, wpe: undefined }, t),
          [[t.y, rows, TOLERANCE[dtype]!]],
          { on: { ...device, maxBindingBytes } },
        );
      }
    }),
  );
}

Deno.test("embeddingForward() reaches every row beyond one row of workgroups", async () => {
  const M = 32768 * 16 + 3, C = 4; // 32768 workgroups of 16 rows, and three rows more
  const t = tensors({
    tokens: [[M], "u32", Uint32Array.from({ length: M }, (_, m) => m % 2)],
    wte: [[2, C], "f32", Float32Array.from({ length: 2 * C }, (_, i) => Math.floor(i / C))],
    wpe: [[1, C], "f32", 2],
    y: [[M, C], "f32"],
  });
  const [y] = await runProgram((program) => embeddingForward(program, t, t, { T: 1 }), [t.y]);
  assert.equal(y!.findIndex((v, i) => v !== Math.floor(i / C) % 2 + 2), -1);
});

Deno.test("embeddingBackward() sets positions beyond one row of workgroups", async () => {
  const maxT = 32768 * 4 + 3, C = 4; // 32768 workgroups of 4 positions, and three positions more
  const t = tensors({
    tokens: [[1], "u32", 0],
    order: [[1], "u32", 0],
    dy: [[1, C], "f32", 3],
    dwte: [[1, C], "f32", 0],
    dwpe: [[maxT, C], "f32"],
  });
  const [dwpe] = await runProgram(
    (program) => embeddingBackward(program, t, t, { T: 1 }),
    [t.dwpe],
  );
  assert.equal(dwpe!.findIndex((v, i) => v !== (i < C ? 3 : 0)), -1);
});

Deno.test("embeddingForward() does not write rows of tokens beyond the vocabulary", async () => {
  const t = tensors({
    tokens: [[2], "u32", [1, 2]],
    wte: [[2, 4], "f32", [1, 2, 3, 4, 5, 6, 7, 8]],
    wpe: [[2, 4], "f32", 0],
    y: [[2, 4], "f32"],
  });
  const [y] = await runProgram((program) => embeddingForward(program, t, t, { T: 2 }), [t.y]);
  assert.deepEqual([...y!], [5, 6, 7, 8, NaN, NaN, NaN, NaN]);
});

Deno.test("embeddingBackward() throws on a batch that ends within a sequence", () => {
  const t = tensors({
    tokens: [[4], "u32"],
    order: [[4], "u32"],
    dy: [[4, 4], "f32"],
    dwte: [[9, 4], "f32"],
    dwpe: [[3, 4], "f32"],
  });
  assert.throws(() => embeddingBackward(new Program(device), t, t, { T: 3 }), {
    name: "RangeError",
    message:
      'Cannot run embeddingBackward as tokens must hold whole sequences of 3: current length of "tokens" is 4',
  });
});

for (
  const [what, maxT, C, message] of [
    [
      "more positions than the table has",
      3,
      4,
      'T must be 1 to 3, the positions of "wpe": current value is 4',
    ],
    [
      "a width that is no multiple of four",
      4,
      6,
      'rows of wte must have a multiple of four elements: current shape of "wte" is [9,6]',
    ],
  ] as const
) {
  Deno.test(`embeddingForward() throws on ${what}`, () => {
    const t = tensors({
      tokens: [[4], "u32"],
      wte: [[9, C], "f32"],
      wpe: [[maxT, C], "f32"],
      y: [[4, C], "f32"],
    });
    assert.throws(() => embeddingForward(new Program(device), t, t, { T: 4 }), {
      name: "RangeError",
      message: `Cannot run embeddingForward as ${message}`,
    });
  });
}
