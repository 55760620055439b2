import columnSumsShader from "./bias_backward.wgsl" with { type: "text" };
import { matmul, type MatmulOptions } from "../matmul/matmul.ts";
import type { Program } from "../program.ts";
import { assertDType, assertShape, ceilDiv, type DType, type Tensor } from "../tensor.ts";

/**
 * y = x · weight + bias, or x · weight alone, and where it is asked for activated = gelu(y). y is set, or
 * with `accumulate` added to; with `normalize`, x is layer-normalised first, if it is one row.
 *
 * x: [M,C]; weight: [C,N]; bias: f32 [N]; y, activated: [M,N]; x, weight and y are f32 or f16, activated
 * is of y's type.
 *
 * @throws {RangeError | TypeError} if shapes or types do not fit together.
 */
export function linearForward(
  program: Program,
  { x, weight, bias }: { x: Tensor; weight: Tensor; bias?: Tensor | undefined },
  { y, activated }: { y: Tensor; activated?: Tensor | undefined },
  options: Pick<MatmulOptions, "accumulate" | "normalize"> = {},
): void {
  matmul(program, { a: x, b: weight, bias }, { y }, {
    ...options,
    epilogue: activated && { kind: "gelu", activated },
  });
}

/**
 * dx = dy · weightᵀ, dweight = xᵀ · dy, dbias = column sums of dy. Where x is gelu(hidden), dx is the
 * gradient of hidden: the product times gelu'(hidden). Only those are computed that are asked for.
 *
 * x, dx, hidden: [M,C]; weight, dweight: [C,N]; dy: [M,N]; dbias: [N]. dweight and dbias are f32. dx is set;
 * dweight and dbias are set, or with `accumulate` added to.
 */
export function linearBackward(
  program: Program,
  { x, weight, dy, hidden }: {
    x: Tensor;
    weight: Tensor;
    dy: Tensor;
    hidden?: Tensor | undefined;
  },
  { dx, dweight, dbias }: {
    dx?: Tensor | undefined;
    dweight?: Tensor | undefined;
    dbias?: Tensor | undefined;
  },
  { accumulate = false }: { accumulate?: boolean } = {},
): void {
  if (dx) {
    matmul(program, { a: dy, b: weight }, { y: dx }, {
      transposeB: true,
      epilogue: hidden && { kind: "gelu backward", hidden },
    });
  }
  if (dweight) matmul(program, { a: x, b: dy }, { y: dweight }, { transposeA: true, accumulate });
  if (dbias) biasBackward(program, { dy }, { dbias }, { accumulate });
}

/**
 * Rows of dy that one workgroup sums. A GPU's has many invocations, and a launch more for the sums of
 * blocks would cost it more than the workgroups that a few columns leave idle.
 */
const BLOCK = { gpu: 16384, cpu: 256 };

/** Most vectors of columns of a workgroup, and most invocations that share one: powers of two. */
const COLUMNS = { gpu: 8, cpu: 16 }, SHARES = { gpu: 128, cpu: 8 };

/** Below so many workgroups a GPU's take half the columns, so that more cores have one. */
const FEW_WORKGROUPS = 72;

/** dbias = column sums of dy; set, or with `accumulate` added to.  dy: [M,N]; dbias: f32 [N] */
function biasBackward(
  program: Program,
  { dy }: { dy: Tensor },
  { dbias }: { dbias: Tensor },
  { accumulate }: { accumulate: boolean },
): void {
  const [M, N] = dy.shape as [number, number];
  assertDType("linearBackward", dbias, "f32");
  assertShape("linearBackward", dbias, [N]);
  const block = BLOCK[program.device.isCpu ? "cpu" : "gpu"], blocks = ceilDiv(M, block);
  if (blocks === 1) {
    columnSums(program, { x: dy }, { sums: dbias }, { block, accumulate });
  } else {
    const partials = program.scratch([blocks, N]);
    columnSums(program, { x: dy }, { sums: partials }, { block });
    columnSums(program, { x: partials }, { sums: dbias }, { block: blocks, accumulate });
  }
}

/** Sums of the columns of each block of rows.  x: [M,N]; sums: f32 [blocks,N] */
function columnSums(
  program: Program,
  { x }: { x: Tensor },
  { sums }: { sums: Tensor },
  { block, accumulate = false }: { block: number; accumulate?: boolean },
): void {
  const { isCpu, gpu: { limits } } = program.device, kind = isCpu ? "cpu" : "gpu";
  const [M, N] = x.shape as [number, number], width = N % 4 === 0 ? 4 : 1;
  let columns = COLUMNS[kind];
  const workgroups = ceilDiv(N / width, columns) * ceilDiv(M, block);
  if (!isCpu && workgroups < FEW_WORKGROUPS) columns /= 2;
  const most = Math.log2(limits.maxComputeInvocationsPerWorkgroup / columns);
  const shares = Math.min(SHARES[kind], 2 ** Math.floor(most));
  const typed = (dtype: DType) => width === 4 ? `vec4<${dtype}>` : dtype;
  program.dispatch({
    label: "kernels/linear/bias_backward.wgsl",
    source: columnSumsShader,
    constants: {
      real: typed(x.dtype),
      value: typed("f32"),
      COLUMNS: columns,
      SHARES: shares,
    },
    tensors: [x, sums],
    uniforms: [M, N / width, block, accumulate ? 1 : 0],
    workgroups: [ceilDiv(N / width, columns), ceilDiv(M, block)],
    iterations: ceilDiv(block, shares) + Math.log2(shares),
    workgroupBytes: columns * shares * 4 * width,
  });
}
