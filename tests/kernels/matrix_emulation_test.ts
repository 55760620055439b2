import assert from "node:assert/strict";
import { matmul } from "../../kernels/matmul/reference.ts";
import type { DType } from "../../kernels/tensor.ts";
import { assertComputes, device, randomIntegers, tensors, withRandom } from "./harness.ts";
import { emulateMatrices, withEmulatedMatrices } from "./matrix_emulation.ts";

/** Orders of the elements of a, b and y in memory, and the types of the arrays that hold b and y. */
interface Case {
  name: string;
  a: "row_major" | "col_major";
  b: readonly [order: "row_major" | "col_major", type: string, numbersPerElement: number];
  y: readonly [order: "row_major" | "col_major", type: string, numbersPerElement: number];
  dtype: DType;
}

const CASES: Case[] = [
  {
    name: "in rows",
    a: "row_major",
    b: ["row_major", "vec4u", 8],
    y: ["row_major", "f32", 1],
    dtype: "f32",
  },
  {
    name: "in columns",
    a: "col_major",
    b: ["col_major", "vec4u", 8],
    y: ["col_major", "f32", 1],
    dtype: "f32",
  },
  {
    name: "in arrays of f16",
    a: "row_major",
    b: ["row_major", "f16", 1],
    y: ["col_major", "f16", 1],
    dtype: "f16",
  },
  {
    name: "in arrays of vectors",
    a: "col_major",
    b: ["row_major", "vec2<f16>", 2],
    y: ["row_major", "vec4u", 4],
    dtype: "f32",
  },
  {
    name: "with results of f16 in words",
    a: "row_major",
    b: ["col_major", "u32", 2],
    y: ["row_major", "vec2u", 4],
    dtype: "f16",
  },
];

/**
 * A shader of two subgroups, each of which computes 1 + a · b of its own a: [16,32] and b: [32,16], in two steps. It
 * reads a from workgroup memory with padded rows.
 */
function shaderOf({ a, b: [bOrder, bType, b], y: [yOrder, yType, y], dtype }: Case): string {
  const [aRows, aWidth, aStep] = a === "row_major" ? [16, 4, 2] : [32, 2, 16 * 3];
  const [bStride, bStep] = bOrder === "row_major" ? [16, 256] : [32, 16];
  return `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

alias Sums = subgroup_matrix_result<${dtype}, 16, 16>;

@group(0) @binding(0) var<storage, read> a: array<vec4u>;
@group(0) @binding(1) var<storage, read> b: array<${bType}>;
@group(0) @binding(2) var<storage, read_write> y: array<${yType}>;

var<workgroup> tile: array<vec4u, ${2 * aRows * (aWidth + 1)}>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) index: u32) {
  for (var i = index; i < ${2 * aRows * aWidth}u; i += 64u) {
    tile[i / ${aWidth}u * ${aWidth + 1}u + i % ${aWidth}u] = a[i];
  }
  workgroupBarrier();
  let subgroup = index / 32u;
  var sums: array<Sums, 1>;
  sums[0] = Sums(1);
  for (var step = 0u; step < 2u; step++) {
    let aFirst = subgroup * ${aRows * (aWidth + 1)}u + step * ${aStep}u;
    let left = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, ${a}>(&tile, aFirst, ${
    aWidth + 1
  }u);
    let right = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, ${bOrder}>(&b,
      (subgroup * 512u + step * ${bStep}u) / ${b}u, ${bStride / b}u);
    sums[0] = subgroupMatrixMultiplyAccumulate(left, right, sums[0]);
  }
  subgroupMatrixStore<${yOrder}>(&y, subgroup * ${256 / y}u, sums[0], ${16 / y}u);
}`;
}

/** The columns of a matrix [rows,columns], one after the other. */
function transposed(x: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(x, (_, i) => x[i % rows * columns + Math.floor(i / rows)]!);
}

for (const one of CASES) {
  Deno.test({
    name: `emulateMatrices() multiplies matrices ${one.name}`,
    ignore: !device.features.has("shader-f16"),
    fn: withRandom(async (random) => {
      const inRows = (order: string) => order === "row_major";
      const products = Array.from({ length: 2 }, () => {
        const a = randomIntegers(random, 512), b = randomIntegers(random, 512);
        const y = matmul({ a, b }, { M: 16, N: 16, K: 32 }).y.map((v) => v + 1);
        return {
          a: inRows(one.a) ? a : transposed(a, 16, 32),
          b: inRows(one.b[0]) ? b : transposed(b, 32, 16),
          y: inRows(one.y[0]) ? y : transposed(y, 16, 16),
        };
      });
      const both = (of: "a" | "b" | "y") => products.flatMap((product) => [...product[of]]);
      const t = tensors({
        a: [[1024], "f16", both("a")],
        b: [[1024], "f16", both("b")],
        y: [[512], one.dtype],
      });
      await assertComputes(
        (program) =>
          program.dispatch({ shader: { "test.wgsl": shaderOf(one) }, tensors: t, workgroups: [1] }),
        [[t.y, both("y"), 0]],
        { on: withEmulatedMatrices(device) },
      );
    }),
  });
}

Deno.test("emulateMatrices() leaves a shader without matrices as it is", () => {
  const code = "enable f16;\n@compute @workgroup_size(1) fn main() {}";
  assert.equal(emulateMatrices(code), code);
});

Deno.test("emulateMatrices() throws on what it does not emulate", () => {
  const uses = {
    "8 × 8 matrices": "var m: subgroup_matrix_result<f32, 8, 8>;",
    "a left matrix of f32": "var m: subgroup_matrix_left<f32, 16, 16>;",
    '"t", which is no array of the module':
      "let m = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&t, 0u, 2u);",
  };
  for (const [what, code] of Object.entries(uses)) {
    assert.throws(() => emulateMatrices(code), {
      name: "RangeError",
      message: `Cannot emulate subgroup matrices as the shader uses ${what}`,
    });
  }
});
