import columnSumsShader from "./bias_backward.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import {
  type BackwardEpilogue,
  type ForwardEpilogue,
  matmul,
  type MatmulOptions,
} from "../matmul/matmul.ts";
import type { Program } from "../program.ts";
import { ceilDiv, type DType, type Tensor } from "../tensor.ts";

/**
 * y = x · weight + bias; without a bias y = x · weight. With `epilogue`, an activation function of y is stored too. With
 * `normalize` the product reads the norm of x. With `parts` y is f32 [parts,M,N]: partial sums, see `matmul()`.
 *
 * x: [M,C]; weight: [C,N]; bias: f32 [N]; y: [M,N]. x, weight and y are f32 or f16.
 *
 * @throws {RangeError | TypeError} if shapes or types do not match.
 */
export function linearForward(
  program: Program,
  { x, weight, bias }: { x: Tensor; weight: Tensor; bias?: Tensor | undefined },
  { y }: { y: Tensor },
  options: Pick<MatmulOptions, "normalize" | "parts" | "kernelRows"> & {
    epilogue?: ForwardEpilogue | undefined;
  } = {},
): void {
  matmul(program, { a: x, b: weight, bias }, { y }, options);
}

/**
 * dx = dy · weightᵀ, dweight = xᵀ · dy, dbias = column sums of dy; only the given outputs are computed. If x is
 * activation(hidden), or activation(gate) · up, `epilogue` makes dx the gradient of hidden, or of up.
 *
 * x, dx: [M,C]; weight, dweight: [C,N]; dy: [M,N]; dbias: [N]. dweight and dbias are f32. dx is set,
 * or with `accumulateDx` added to; dweight and dbias are set, or with `accumulate` added to.
 *
 * @throws {RangeError | TypeError} if shapes or types do not match.
 */
export function linearBackward(
  program: Program,
  { x, weight, dy }: { x: Tensor; weight: Tensor; dy: Tensor },
  { dx, dweight, dbias }: {
    dx?: Tensor | undefined;
    dweight?: Tensor | undefined;
    dbias?: Tensor | undefined;
  },
  { accumulate = false, accumulateDx = false, epilogue }: {
    accumulate?: boolean;
    accumulateDx?: boolean;
    epilogue?: BackwardEpilogue | undefined;
  } = {},
): void {
  if (dx) {
    matmul(program, { a: dy, b: weight }, { y: dx }, {
      transposeB: true,
      accumulate: accumulateDx,
      epilogue,
    });
  }
  if (dweight) matmul(program, { a: x, b: dy }, { y: dweight }, { transposeA: true, accumulate });
  if (dbias) biasBackward(program, { dy }, { dbias }, { accumulate });
}

/**
 * Rows of dy per workgroup. A GPU's workgroups have many invocations; a second launch, to add up more blocks, would
 * cost more than the cores that stay idle if there are few columns.
 */
const BLOCK = { gpu: 16384, cpu: 256 };

/** Most vectors of columns per workgroup, and most invocations per vector: powers of two. */
const COLUMNS = { gpu: 8, cpu: 16 }, SHARES = { gpu: 128, cpu: 8 };

/** Fewest workgroups on a GPU: with fewer, each has half the columns, so that more cores have one. */
const FEWEST_WORKGROUPS = 72;

/** dbias = column sums of dy; set, or with `accumulate` added to.  dy: [M,N]; dbias: f32 [N] */
function biasBackward(
  program: Program,
  { dy }: { dy: Tensor },
  { dbias }: { dbias: Tensor },
  { accumulate }: { accumulate: boolean },
): void {
  const { M, N } = dims("linearBackward", {
    dy: [dy, "M,N", "f32|f16"],
    dbias: [dbias, "N", "f32"],
  });
  const block = BLOCK[program.device.isCpu ? "cpu" : "gpu"], blocks = ceilDiv(M, block);
  if (blocks === 1) return columnSums(program, { x: dy }, { sums: dbias }, { block, accumulate });
  const partials = program.scratch([blocks, N]);
  columnSums(program, { x: dy }, { sums: partials }, { block });
  columnSums(program, { x: partials }, { sums: dbias }, { block: blocks, accumulate });
}

/** Sums of the columns of each block of rows.  x: [M,N]; sums: f32 [blocks,N], or [N] for one block */
function columnSums(
  program: Program,
  { x }: { x: Tensor },
  { sums }: { sums: Tensor },
  { block, accumulate = false }: { block: number; accumulate?: boolean },
): void {
  const { isCpu, gpu: { limits } } = program.device, kind = isCpu ? "cpu" : "gpu";
  const { M, N } = dims("linearBackward", { x: [x, "M,N", "f32|f16"] });
  const width = N % 4 === 0 ? 4 : 1;
  let columns = COLUMNS[kind];
  const workgroups = ceilDiv(N / width, columns) * ceilDiv(M, block);
  if (!isCpu && workgroups < FEWEST_WORKGROUPS) columns /= 2;
  const most = Math.log2(limits.maxComputeInvocationsPerWorkgroup / columns);
  const shares = Math.min(SHARES[kind], 2 ** Math.floor(most));
  const typeOf = (dtype: DType) => width === 4 ? `vec4<${dtype}>` : dtype;
  program.dispatch({
    shader: { "kernels/linear/bias_backward.wgsl": columnSumsShader },
    constants: {
      xType: typeOf(x.dtype),
      value: typeOf("f32"),
      COLUMNS: columns,
      SHARES: shares,
    },
    tensors: { x, sums },
    uniforms: { M, N: N / width, block, accumulate },
    workgroups: [ceilDiv(N / width, columns), ceilDiv(M, block)],
    iterations: ceilDiv(block, shares) + Math.log2(shares),
    workgroupBytes: columns * shares * 4 * width,
  });
}
