/**
 * Muon, which moves a matrix along the nearest orthogonal one to its momentum: all directions that the momentum has
 * count the same, not only the few with the largest singular values (Jordan et al. 2024,
 * https://kellerjordan.github.io/posts/muon/).
 *
 *     momentum = β · momentum + (1 - β) · g                    momentum.wgsl
 *     x = β · momentum + (1 - β) · g                           Nesterov's look-ahead
 *     x = x / ‖x‖                                              normalize.wgsl
 *     five times: A = x · xᵀ, B = b · A + c · A · A,           products of kernels/matmul/
 *                 x = a · x + B · x
 *     parameter = (1 - rate · decay) · parameter               update.wgsl
 *                 - rate · √max(1, outputs / inputs) · x
 *
 * The rounds are an iteration of Newton and Schulz with coefficients that raise small singular values the fastest:
 * afterwards all lie between about 0.7 and 1.2. Its products are those of the shorter side: if a matrix has more rows
 * than columns, A = xᵀ · x and x = a · x + x · B. So a matrix of m × n, m ≤ n, takes 5 · (4 · m² · n + 2 · m³)
 * operations. Matrices of one shape are computed together, of all blocks if they fit.
 *
 * The rounds are computed in f32 also if the model trains in f16: products in f16 would not be faster, since WGSL
 * computes them in f32, and would round x, of whose smallest singular values five rounds make up to 485 times as much.
 *
 * @module
 */

import momentumShader from "./momentum.wgsl" with { type: "text" };
import normalizeShader from "./normalize.wgsl" with { type: "text" };
import updateShader from "./update.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { matmul } from "../matmul/matmul.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { rowSlice, rowSlices } from "../slices.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";

/** A matrix of a block: some columns of a stored matrix [inputs,columns]. */
export interface MuonMatrix {
  /** Its first element in a block. */
  readonly start: number;
  /** Elements from one stored row to the next. */
  readonly columns: number;
  /** Its rows: inputs of the linear layer. */
  readonly inputs: number;
  /** Its columns: outputs of the linear layer. */
  readonly outputs: number;
}

/** Settings of Muon that stay the same throughout training. */
export interface MuonOptions {
  /** β: decay of the momentum. */
  readonly momentum: number;
  /** Decoupled decay: each step multiplies the parameter by 1 − learning rate · weightDecay. */
  readonly weightDecay: number;
}

/** Coefficients a, b and c of a round: of x, x³ and x⁵. */
const LINEAR = 3.4445, CUBIC = -4.7750, QUINTIC = 2.0315;

/** Rounds per step. */
const ROUNDS = 5;

/** Most bytes of the matrices that are computed together: they fill a large GPU, and need less than a moment of AdamW. */
const MOST_BYTES = 64 * 2 ** 20;

/** Values per workgroup of the kernels with sums, and invocations of all. */
const PART = 1024, WORKGROUP_SIZE = 256;

/** Slots of scratch memory. Products use slot 0. */
const X = 1, NEXT = 2, GRAM = 3, POLYNOMIAL = 4, SQUARES = 5;

/**
 * One step of Muon for the given matrices of all blocks, in place. Nothing changes if `update` says that the step is
 * skipped.
 *
 * gradient, parameter, momentum: f32 [L,S], a row per block; copy: f16 [L,S], is set to the rounded parameter, for
 * matrix products in f16; update: u32 [5] of `prepareStep()`. The matrices of a block lie in its S elements, a multiple
 * of 128.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function muon(
  program: Program,
  { gradient, update }: { gradient: Tensor; update: Tensor },
  { parameter, momentum, copy }: { parameter: Tensor; momentum: Tensor; copy?: Tensor | undefined },
  matrices: readonly MuonMatrix[],
  options: MuonOptions,
): void {
  dims("muon", {
    parameter: [parameter, "L,S", "f32"],
    gradient: [gradient, "L,S", "f32"],
    momentum: [momentum, "L,S", "f32"],
    copy: [copy, "L,S", "f16"],
    update: [update, "5", "u32"],
  });
  for (const { matrices: alike, maxRows } of batchesOf(matrices, parameter.shape[0]!)) {
    for (const { first, rows: L } of rowSlices(program.device, parameter, { maxRows })) {
      const blocks = (t: Tensor) => rowSlice(t, { first, rows: L }).view;
      const { inputs, outputs } = alike[0]!;
      const x = program.scratch([L * alike.length, inputs, outputs], X);
      const ahead = { gradient: blocks(gradient), update };
      lookAhead(program, ahead, { momentum: blocks(momentum), x }, alike, options);
      const moved = { parameter: blocks(parameter), copy: copy && blocks(copy) };
      move(program, { x: orthogonalize(program, x), update }, moved, alike, options);
    }
  }
}

/** Matrices of one shape that are computed together. */
interface MatrixBatch {
  readonly matrices: readonly MuonMatrix[];
  /** Most blocks that are computed together. */
  readonly maxRows: number;
}

/** Distributes the matrices of L blocks over batches whose x has at most `MOST_BYTES`, or one matrix. */
function batchesOf(matrices: readonly MuonMatrix[], L: number): MatrixBatch[] {
  const alike = Map.groupBy(matrices, ({ inputs, outputs }) => `${inputs},${outputs}`);
  return [...alike.values()].flatMap((matrices) => {
    const { inputs, outputs } = matrices[0]!;
    const most = Math.max(1, Math.floor(MOST_BYTES / (4 * inputs * outputs)));
    return partsOf(matrices, most).map((matrices) => {
      const slices = ceilDiv(L, Math.max(1, Math.floor(most / matrices.length)));
      return { matrices, maxRows: ceilDiv(L, slices) };
    });
  });
}

/** Cuts a list into parts of nearly equal length, at most `most`. */
function partsOf<T>(list: readonly T[], most: number): T[][] {
  const length = ceilDiv(list.length, ceilDiv(list.length, most));
  return Array.from(
    { length: ceilDiv(list.length, length) },
    (_, i) => list.slice(i * length, (i + 1) * length),
  );
}

/** Updates the momentum, and sets x to Nesterov's look-ahead divided by its norm.  x: [G,inputs,outputs] */
function lookAhead(
  program: Program,
  { gradient, update }: { gradient: Tensor; update: Tensor },
  { momentum, x }: { momentum: Tensor; x: Tensor },
  matrices: readonly MuonMatrix[],
  { momentum: BETA }: MuonOptions,
): void {
  const [G] = x.shape,
    [L] = momentum.shape,
    width = widthOf(matrices),
    levels = Math.log2(WORKGROUP_SIZE);
  const { elements } = placeOf(matrices[0]!, momentum, width), parts = ceilDiv(elements, PART);
  const squares = program.scratch([G!, parts], SQUARES), value = VALUE[width];
  matrices.forEach((matrix, i) => {
    program.dispatch({
      shader: { "kernels/muon/momentum.wgsl": momentumShader },
      constants: { BETA, PART, WORKGROUP_SIZE, value, COUNTED: 4 / width },
      tensors: { gradient, update, momentum, x, squares },
      uniforms: { ...placeOf(matrix, momentum, width), first: i * L!, parts },
      workgroups: [...splitWorkgroups(parts), L!],
      iterations: PART / WORKGROUP_SIZE + levels,
      workgroupBytes: 4 * WORKGROUP_SIZE,
    });
  });
  program.dispatch({
    shader: { "kernels/muon/normalize.wgsl": normalizeShader },
    constants: { PART, WORKGROUP_SIZE, value },
    tensors: { squares, x },
    uniforms: { elements, parts },
    workgroups: [...splitWorkgroups(parts), G!],
    iterations: ceilDiv(parts, WORKGROUP_SIZE) + PART / WORKGROUP_SIZE + levels,
    workgroupBytes: 4 * WORKGROUP_SIZE,
  });
}

/** Five rounds of Newton and Schulz; returns the scratch tensor that has the result: x or another. */
function orthogonalize(program: Program, x: Tensor): Tensor {
  const [G, inputs, outputs] = x.shape as [number, number, number];
  const isTall = inputs > outputs, m = Math.min(inputs, outputs);
  const A = program.scratch([G, m, m], GRAM), B = program.scratch([G, m, m], POLYNOMIAL);
  let next = program.scratch(x.shape, NEXT);
  for (let round = 0; round < ROUNDS; round++) {
    matmul(program, { a: x, b: x }, { y: A }, isTall ? { transposeA: true } : { transposeB: true });
    matmul(program, { a: A, b: A }, { y: B }, {
      scale: QUINTIC,
      addend: { tensor: A, factor: CUBIC },
    });
    matmul(program, isTall ? { a: x, b: B } : { a: B, b: x }, { y: next }, {
      addend: { tensor: x, factor: LINEAR },
    });
    [x, next] = [next, x];
  }
  return x;
}

/** Moves the parameters along x.  x: [G,inputs,outputs] */
function move(
  program: Program,
  { x, update }: { x: Tensor; update: Tensor },
  { parameter, copy }: { parameter: Tensor; copy: Tensor | undefined },
  matrices: readonly MuonMatrix[],
  { weightDecay: WEIGHT_DECAY }: MuonOptions,
): void {
  const [L] = parameter.shape, width = widthOf(matrices);
  const types = { value: VALUE[width], copyType: width === 4 ? "vec4<f16>" : "f16" };
  matrices.forEach((matrix, i) => {
    const { inputs, outputs } = matrix, place = placeOf(matrix, parameter, width);
    program.dispatch({
      shader: { "kernels/muon/update.wgsl": updateShader },
      constants: { WEIGHT_DECAY, COPY: copy !== undefined, WORKGROUP_SIZE, ...types },
      tensors: { x, update, parameter, copy },
      uniforms: { ...place, first: i * L!, scale: Math.sqrt(Math.max(1, outputs / inputs)) },
      workgroups: [...splitWorkgroups(ceilDiv(place.elements, WORKGROUP_SIZE)), L!],
    });
  });
}

/** Elements per value of a kernel. */
type Width = 1 | 4;

/** The type of a value. */
const VALUE: Readonly<Record<Width, string>> = { 1: "f32", 4: "vec4f" };

/** Four if rows of the matrices are whole vectors of four, else one. */
function widthOf(matrices: readonly MuonMatrix[]): Width {
  const areVectors = matrices.every(({ start, columns, outputs }) =>
    [start, columns, outputs].every((count) => count % 4 === 0)
  );
  return areVectors ? 4 : 1;
}

/** Where a matrix lies in the blocks of a tensor [L,S], counted in values. */
function placeOf({ start, columns, inputs, outputs }: MuonMatrix, { shape }: Tensor, width: Width) {
  return {
    S: shape[1]! / width,
    start: start / width,
    columns: columns / width,
    outputs: outputs / width,
    elements: inputs * outputs / width,
  };
}
