import assert from "node:assert/strict";
import type { Device } from "../../kernels/device.ts";
import {
  embeddingBackward,
  embeddingDecode,
  embeddingForward,
} from "../../kernels/embedding/embedding.ts";
import * as reference from "../../kernels/embedding/reference.ts";
import { Program } from "../../kernels/program.ts";
import { download, type DType } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertGradient,
  device,
  freshSeed,
  poisoned,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensorOf,
  testRandom,
} from "./harness.ts";

// f32: sums of at most 30 terms in another order; f16: y rounded to 11 bits
const TOLERANCE = { f32: 1e-5, f16: 1e-3 } as Record<string, number>;

Deno.test("reference embeddingBackward() matches central differences", () => {
  const random = testRandom(freshSeed());
  const shape = { T: 2, C: 3 }, tokens = Uint32Array.of(4, 1, 4, 4);
  const wte = randomValues(random, 15), wpe = randomValues(random, 6);
  const dy = randomValues(random, 12);
  const dwte = new Float32Array(15), dwpe = new Float32Array(6);
  reference.embeddingBackward({ tokens, dy }, { dwte, dwpe }, shape);
  const y = (tables: { wte?: Float32Array; wpe?: Float32Array }) =>
    reference.embeddingForward({ tokens, wte, wpe, ...tables }, shape).y;
  assertGradient((wte) => y({ wte }), wte, dy, dwte, { what: "dwte" });
  assertGradient((wpe) => y({ wpe }), wpe, dy, dwpe, { what: "dwpe" });
});

function groups(tokens: Uint32Array): { order: Uint32Array; segments: Uint32Array } {
  const order = Uint32Array.from(tokens.keys()).sort((a, b) => tokens[a]! - tokens[b]! || a - b);
  const segments = new Uint32Array(tokens.length + 1).fill(tokens.length);
  let runs = 0;
  order.forEach((m, i) => {
    if (i === 0 || tokens[m] !== tokens[order[i - 1]!]) segments[runs++] = i;
  });
  return { order, segments };
}

async function check(on: Device, dtype: DType, { B, T, V, L, C }: Record<string, number>) {
  const seed = freshSeed(), random = testRandom(seed), M = B! * T!;
  const tokens = Uint32Array.from({ length: M }, () => Math.floor(random() ** 2 * V!));
  tokens[0] = V! - 1;
  const { order, segments } = groups(tokens);
  const values = {
    wte: randomValues(random, V! * C!),
    wpe: randomValues(random, L! * C!),
    dy: randomValues(random, M * C!, { dtype }),
    dwte: randomValues(random, V! * C!),
  };
  const u32 = (length: number) => ({ shape: [length], dtype: "u32" as const });
  const f32 = (rows: number) => ({ shape: [rows, C!], dtype: "f32" as const });
  const t = {
    tokens: tensorOf("tokens", u32(M), tokens),
    order: tensorOf("order", u32(M), order),
    segments: tensorOf("segments", u32(M + 1), segments),
    wte: tensorOf("wte", f32(V!), values.wte),
    wpe: tensorOf("wpe", f32(L!), values.wpe),
    dy: tensorOf("dy", { shape: [M, C!], dtype }, values.dy),
    y: poisoned("y", { shape: [M, C!], dtype }),
    dwte: tensorOf("dwte", f32(V!), values.dwte),
    dwpe: poisoned("dwpe", f32(L!)),
    cursor: tensorOf("cursor", u32(2), [V! - 1, L! - 1]),
    one: poisoned("one", { shape: [1, C!], dtype }),
  };
  const program = new Program(on);
  embeddingForward(program, t, t, { T: T! });
  embeddingBackward(program, t, t, { T: T! });
  embeddingBackward(program, t, t, { T: T!, accumulate: true });
  embeddingDecode(program, t, { y: t.one });
  program.run();
  const [y, dwte, dwpe, one] = await download(on, t.y, t.dwte, t.dwpe, t.one);

  const tolerance = TOLERANCE[dtype]!, what = `seed ${seed}`;
  const expected = reference.embeddingForward({ tokens, ...values }, { T: T!, C: C! });
  assertClose(y!, expected.y, tolerance, `y, ${what}`);
  const gradients = { dwte: values.dwte.slice(), dwpe: new Float32Array(L! * C!) };
  for (let i = 0; i < 2; i++) {
    reference.embeddingBackward({ tokens, dy: values.dy }, gradients, { T: T!, C: C! });
  }
  assertClose(dwte!, gradients.dwte, TOLERANCE.f32!, `dwte, ${what}`);
  assertClose(dwpe!, gradients.dwpe, TOLERANCE.f32!, `dwpe, ${what}`);
  const last = Float32Array.from(
    { length: C! },
    (_, c) => values.wte[(V! - 1) * C! + c]! + values.wpe[(L! - 1) * C! + c]!,
  );
  assertClose(one!, last, tolerance, `decoded y, ${what}`);
}

for (const dtype of REAL_TYPES) {
  for (
    const size of [
      { B: 1, T: 1, V: 1, L: 1, C: 1 },
      { B: 3, T: 5, V: 127, L: 7, C: 3 },
      { B: 2, T: 9, V: 50, L: 9, C: 129 },
    ]
  ) {
    const name = Object.entries(size).map(([key, value]) => `${key} ${value}`).join(", ");
    Deno.test(`embedding matches the reference in ${dtype} at ${name}`, () =>
      check(device, dtype, size));
  }
  Deno.test(`embedding matches the reference in ${dtype} when wte takes three bindings`, () =>
    check({ ...device, maxBindingBytes: 4096 }, dtype, { B: 3, T: 10, V: 300, L: 12, C: 8 }));
}

Deno.test("embeddingForward() reaches every element beyond one row of workgroups", async () => {
  const M = 32768, C = 257; // 32768 workgroups of 256 elements, and 32768 elements more
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
  const L = 8200, C = 257; // 32768 workgroups of 64 elements, and 10248 elements more
  const u32 = (length: number) => ({ shape: [length], dtype: "u32" as const });
  const f32 = (rows: number) => ({ shape: [rows, C], dtype: "f32" as const });
  const t = {
    tokens: tensorOf("tokens", u32(1), [0]),
    order: tensorOf("order", u32(1), [0]),
    segments: tensorOf("segments", u32(2), [0, 1]),
    dy: tensorOf("dy", f32(1), new Float32Array(C).fill(3)),
    dwte: tensorOf("dwte", f32(1), new Float32Array(C)),
    dwpe: tensorOf("dwpe", f32(L), new Float32Array(L * C).fill(NaN)),
  };
  const [dwpe] = await runProgram(
    (program) => embeddingBackward(program, t, t, { T: 1 }),
    t.dwpe,
  );
  assert.equal(dwpe!.findIndex((v, i) => v !== (i < C ? 3 : 0)), -1);
});

Deno.test("embeddingForward() leaves rows of tokens beyond the vocabulary alone", async () => {
  const like = { shape: [2, 1], dtype: "f32" } as const;
  const t = {
    tokens: tensorOf("tokens", { shape: [2], dtype: "u32" }, [1, 2]),
    wte: tensorOf("wte", like, [5, 6]),
    wpe: tensorOf("wpe", like, [0, 0]),
    y: poisoned("y", like),
  };
  const [y] = await runProgram((program) => embeddingForward(program, t, t, { T: 2 }), t.y);
  assert.deepEqual([...y!], [6, NaN]);
});

Deno.test("embeddingBackward() throws on a batch that ends within a sequence", () => {
  const u32 = (length: number) => poisoned("tokens", { shape: [length], dtype: "u32" });
  const f32 = (rows: number) => poisoned("table", { shape: [rows, 2], dtype: "f32" });
  assert.throws(
    () =>
      embeddingBackward(
        new Program(device),
        { tokens: u32(4), order: u32(4), segments: u32(5), dy: f32(4) },
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
  const like = (rows: number) => poisoned("wpe", { shape: [rows, 2], dtype: "f32" });
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
