/**
 * Muon, which moves a matrix along the nearest orthogonal one to its momentum: all directions that the momentum has
 * count the same, not only the few with the largest singular values (Jordan et al. 2024,
 * https://kellerjordan.github.io/posts/muon/).
 *
 *     momentum = β · momentum + (1 - β) · g                    momentum.wgsl
 *     x = β · momentum + (1 - β) · g                           Nesterov's look-ahead
 *     x = x / ‖x‖                                              normalize.wgsl
 *     five times: A = x · xᵀ, P = a · I + b · A + c · A · A,   products of kernels/matmul/
 *                 x = P · x
 *     parameter = (1 - rate · decay) · parameter               update.wgsl
 *                 - rate · √max(1, outputs / inputs) · x
 *
 * The rounds are an iteration of Newton and Schulz with coefficients that raise small singular values the fastest:
 * afterwards all lie between about 0.7 and 1.2. Its products are those of the shorter side: if a matrix has more rows
 * than columns, A = xᵀ · x and x = x · P. So a matrix of m × n, m ≤ n, takes 5 · (4 · m² · n + 2 · m³)
 * operations, or fewer on tensor cores, which compute half of a symmetric product, and rounds in `GROUPS`. Matrices with the same sides, wide and tall ones, are computed together, of all blocks if they fit: products of
 * squares in one launch, products with x in one for the wide and one for the tall.
 *
 * The rounds are computed in f32 also if the model trains in f16, unless tensor cores multiply f16 several times as
 * fast. Five rounds multiply the smallest singular values of x by up to 485, and the errors of rounding x with them: in
 * f16 these add about a hundredth to directions in which x is next to nothing, in bf16, which is customary, eight times
 * that.
 *
 * @module
 */

import momentumShader from "./momentum.wgsl" with { type: "text" };
import normalizeShader from "./normalize.wgsl" with { type: "text" };
import updateShader from "./update.wgsl" with { type: "text" };
import type { Device } from "../device.ts";
import { dims } from "../dims.ts";
import { hasMatrices } from "../matrices.ts";
import { matmul } from "../matmul/matmul.ts";
import { UPDATE } from "../prepare_step/prepare_step.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { bytesPerElement, ceilDiv, type DType, size, type Tensor, viewTensor } from "../tensor.ts";

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

/**
 * Rounds in groups, each of which begins with a product of x, for matrices in f16 whose longer side is at least `LONG`
 * times the other. Products of x are the longest of these: of gpt2's 768 × 3072 groups save a third of the operations.
 * Errors are those of single rounds. In one group of five they would be ten times as large, as nothing would correct those
 * of A.
 */
const GROUPS = [3, 2], LONG = 2;

/**
 * Most bytes of x of the matrices that are computed together. So many fill a large GPU. The scratch memory of the rounds is
 * about that of AdamW's second moment, which Muon does not have: gpt2's step needs 6.26 GB, with AdamW 6.22 (H200 with Dawn,
 * November 2026).
 */
const MOST_BYTES = 128 * 2 ** 20;

/** Values per workgroup of the kernels with sums, and invocations of all. */
const PART = 1024, WORKGROUP_SIZE = 256;

/** Slots of scratch memory. Products use slot 0. */
const AHEAD = 1, X = 2, GRAM = 3, POLYNOMIAL = 4, SQUARES = 5, FACTOR = 6, SPARE = 7;

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
  const { device } = program, isF16 = copy !== undefined;
  for (const batches of batchesOf(device, matrices, { parameter, isF16 })) {
    const xs = scratchViews(program, batches.map(shapeOf), { slot: X, dtype: batches[0]!.dtype });
    batches.forEach((batch, i) =>
      lookAhead(program, batch, { gradient, update }, { momentum, x: xs[i]! }, options)
    );
    const directions = orthogonalize(program, xs);
    batches.forEach((batch, i) =>
      move(program, batch, { x: directions[i]!, update }, { parameter, copy }, options)
    );
  }
}

/** Element type of Muon's rounds for a matrix of a model that trains in f16: f16 if tensor cores multiply it. */
export function muonDtype(
  device: Pick<Device, "matrixShapes">,
  { inputs, outputs }: Pick<MuonMatrix, "inputs" | "outputs">,
): "f16" | "f32" {
  return hasMatrices(device) && inputs % 8 === 0 && outputs % 8 === 0 ? "f16" : "f32";
}

/** Matrices of one shape in L blocks: one operand of products in a batch. */
interface MatrixBatch {
  readonly matrices: readonly MuonMatrix[];
  /** The first block. */
  readonly first: number;
  /** Number of blocks. */
  readonly L: number;
  /** Element type of x. */
  readonly dtype: "f16" | "f32";
  /** Elements per value of the kernels. */
  readonly width: 1 | 4;
}

/** The shape of x of a batch: [G,inputs,outputs] */
function shapeOf({ matrices, L }: MatrixBatch): [number, number, number] {
  const { inputs, outputs } = matrices[0]!;
  return [L * matrices.length, inputs, outputs];
}

/**
 * Distributes the matrices of all blocks over batches. Each list that it returns is computed together: one batch, or one of wide
 * matrices and one of tall ones. Their x has at most `MOST_BYTES`, or one matrix, and their blocks fit in one binding
 * from the matrix in the first to that in the last.
 */
function batchesOf(
  device: Device,
  matrices: readonly MuonMatrix[],
  { parameter: { shape: [layers, S] }, isF16 }: { parameter: Tensor; isF16: boolean },
): MatrixBatch[][] {
  const { maxBindingBytes } = device;
  return [...Map.groupBy(matrices, sidesOf).values()].flatMap((alike) => {
    const { inputs, outputs } = alike[0]!;
    const dtype = isF16 ? muonDtype(device, alike[0]!) : "f32";
    const elements = Math.min(MOST_BYTES / bytesPerElement(dtype), maxBindingBytes / 4);
    const most = Math.max(1, Math.floor(elements / (inputs * outputs)));
    return chunksOf(alike, most).flatMap((together) => {
      const longest = Math.max(...together.map((matrix) => lengthOf(matrix)));
      const bound = 1 + Math.floor((maxBindingBytes / 4 - longest) / S!);
      const blocks = Math.max(1, Math.min(bound, Math.floor(most / together.length)));
      const width = together.every(isInVectors) ? 4 : 1;
      const ofShapes = [...Map.groupBy(together, ({ inputs }) => inputs).values()];
      return chunksOf([...new Array(layers).keys()], blocks).map(({ 0: first, length: L }) =>
        ofShapes.map((matrices) => ({ matrices, first: first!, L, dtype, width } as const))
      );
    });
  });
}

/**
 * A name that matrices share if they can be computed together: those of one shape, and also of the transposed one if a batch
 * of either may end where a binding starts.
 */
function sidesOf({ inputs, outputs }: MuonMatrix): string {
  const m = Math.min(inputs, outputs), n = Math.max(inputs, outputs);
  const areAligned = [m * m, m * n].every((elements) => elements % ALIGNMENT === 0);
  return areAligned ? `${m},${n}` : `${inputs},${outputs}`;
}

/** Scratch tensors of these shapes, one behind the other in a slot. */
function scratchViews(
  program: Program,
  shapes: readonly (readonly number[])[],
  { slot, dtype }: { slot: number; dtype: DType },
): Tensor[] {
  const elements = shapes.reduce((sum, shape) => sum + size(shape), 0);
  return viewsOf(program.scratch([elements], { slot, dtype }), shapes);
}

/** Views of a tensor with these shapes, one behind the other. */
function viewsOf(whole: Tensor, shapes: readonly (readonly number[])[]): Tensor[] {
  let offset = 0;
  return shapes.map((shape) => {
    const part = viewTensor(whole, { offset, shape });
    offset += size(shape);
    return part;
  });
}

/** Cuts a list into chunks of nearly equal length, at most `most`. */
function chunksOf<T>(list: readonly T[], most: number): T[][] {
  const length = ceilDiv(list.length, ceilDiv(list.length, most));
  return Array.from(
    { length: ceilDiv(list.length, length) },
    (_, i) => list.slice(i * length, (i + 1) * length),
  );
}

/** Updates the momentum, and sets x to Nesterov's look-ahead divided by its norm.  x: f32 or f16 [G,inputs,outputs] */
function lookAhead(
  program: Program,
  batch: MatrixBatch,
  { gradient, update }: { gradient: Tensor; update: Tensor },
  { momentum, x }: { momentum: Tensor; x: Tensor },
  { momentum: BETA }: MuonOptions,
): void {
  const { matrices, L, width } = batch, [G, inputs, outputs] = x.shape as [number, number, number];
  const elements = inputs * outputs / width, parts = ceilDiv(elements, PART);
  const squares = program.scratch([G, parts], { slot: SQUARES });
  const value = VALUE[width], levels = Math.log2(WORKGROUP_SIZE);
  const ahead = program.scratch(x.shape, { slot: AHEAD });
  matrices.forEach((matrix, i) => {
    const stack = (t: Tensor) => stackOf(t, matrix, batch);
    program.dispatch({
      shader: { "kernels/muon/momentum.wgsl": momentumShader, ...UPDATE },
      constants: { BETA, PART, WORKGROUP_SIZE, value, COUNTED: 4 / width },
      tensors: { gradient: stack(gradient), update, momentum: stack(momentum), x: ahead, squares },
      uniforms: { ...placeOf(momentum, matrix, width), first: i * L, parts },
      workgroups: [...splitWorkgroups(parts), L],
      iterations: levels,
      workgroupBytes: 4 * WORKGROUP_SIZE,
    });
  });
  program.dispatch({
    shader: { "kernels/muon/normalize.wgsl": normalizeShader },
    constants: { PART, WORKGROUP_SIZE, value, yType: typeOf(x, width) },
    tensors: { squares, x: ahead, y: x },
    uniforms: { elements, parts },
    workgroups: [...splitWorkgroups(parts), G],
    iterations: ceilDiv(parts, WORKGROUP_SIZE) + levels,
    workgroupBytes: 4 * WORKGROUP_SIZE,
  });
}

/**
 * Five rounds of Newton and Schulz in the type of x.
 *
 * A round multiplies x by P, a polynomial of A, and so A by P². In a group of several rounds only the first A is a product
 * of x, and only the product of all P multiplies x. All these products are symmetric.
 *
 * @param xs scratch tensors [G,inputs,outputs]: wide matrices, tall ones, or both with the same sides. They are overwritten.
 * @returns scratch tensors of these shapes with the results.
 */
function orthogonalize(program: Program, xs: Tensor[]): Tensor[] {
  const { dtype, shape: [, inputs, outputs] } = xs[0]!, shapes = xs.map(({ shape }) => shape);
  const m = Math.min(inputs!, outputs!), n = Math.max(inputs!, outputs!);
  const G = shapes.reduce((sum, [G]) => sum + G!, 0);
  const square = (slot: number) => program.scratch([G, m, m], { slot, dtype });
  /** The squares of each x. */
  const ofEach = (squares: Tensor) => viewsOf(squares, shapes.map(([G]) => [G!, m, m]));
  const A = square(GRAM), As = ofEach(A);
  let nexts = scratchViews(program, shapes, { slot: AHEAD, dtype }); // which nothing reads any more
  const isTall = ({ shape: [, rows, columns] }: Tensor) => rows! > columns!;
  const multiply = (a: Tensor, b: Tensor, y: Tensor) =>
    matmul(program, { a, b }, { y }, { symmetric: true });
  const isGrouped = dtype === "f16" && n >= LONG * m;
  for (const rounds of isGrouped ? GROUPS : new Array<number>(ROUNDS).fill(1)) {
    xs.forEach((x, i) => {
      const layout = isTall(x) ? { transposeA: true } : { transposeB: true };
      matmul(program, { a: x, b: x }, { y: As[i]! }, { ...layout, symmetric: true });
    });
    let factor: Tensor | undefined, spare: Tensor | undefined; // factor: the product of all P
    for (let round = 1; round <= rounds; round++) {
      const P = square(factor ? POLYNOMIAL : FACTOR);
      matmul(program, { a: A, b: A }, { y: P }, {
        symmetric: true,
        scale: QUINTIC,
        addend: { tensor: A, factor: CUBIC },
        diagonal: LINEAR,
      });
      if (factor) {
        multiply(P, factor, spare!);
        [factor, spare] = [spare!, factor];
      } else factor = P;
      if (round === rounds) break;
      spare ??= square(SPARE);
      multiply(P, A, spare);
      multiply(P, spare, A);
    }
    const factors = ofEach(factor!);
    xs.forEach((x, i) => {
      const operands = isTall(x) ? { a: x, b: factors[i]! } : { a: factors[i]!, b: x };
      matmul(program, operands, { y: nexts[i]! });
    });
    [xs, nexts] = [nexts, xs];
  }
  return xs;
}

/** Moves the parameters along x.  x: [G,inputs,outputs] */
function move(
  program: Program,
  batch: MatrixBatch,
  { x, update }: { x: Tensor; update: Tensor },
  { parameter, copy }: { parameter: Tensor; copy: Tensor | undefined },
  { weightDecay: WEIGHT_DECAY }: MuonOptions,
): void {
  const { matrices, L, width } = batch;
  const types = {
    value: VALUE[width],
    xType: typeOf(x, width),
    copyType: width === 4 ? "vec4<f16>" : "f16",
  };
  matrices.forEach((matrix, i) => {
    const { inputs, outputs } = matrix, place = placeOf(parameter, matrix, width);
    const stack = (t: Tensor) => stackOf(t, matrix, batch);
    program.dispatch({
      shader: { "kernels/muon/update.wgsl": updateShader, ...UPDATE },
      constants: { WEIGHT_DECAY, COPY: copy !== undefined, WORKGROUP_SIZE, ...types },
      tensors: { x, update, parameter: stack(parameter), copy: copy && stack(copy) },
      uniforms: { ...place, first: i * L, scale: Math.sqrt(Math.max(1, outputs / inputs)) },
      workgroups: [...splitWorkgroups(ceilDiv(place.elements, WORKGROUP_SIZE)), L],
    });
  });
}

/** The type of a value, by its elements. */
const VALUE = { 1: "f32", 4: "vec4f" } as const;

/** The type of so many elements of a tensor. */
function typeOf({ dtype }: Tensor, width: MatrixBatch["width"]): string {
  return width === 4 ? `vec4<${dtype}>` : dtype;
}

/** Whether the rows of a matrix are whole vectors of four. */
function isInVectors({ start, columns, outputs }: MuonMatrix): boolean {
  return [start, columns, outputs].every((count) => count % 4 === 0);
}

/** Elements of whose multiples a binding may start, in f16 and therefore in f32. */
const ALIGNMENT = 128;

/** Elements from the place where the binding of a matrix starts to its end, in one block. */
function lengthOf({ start, columns, inputs, outputs }: MuonMatrix): number {
  return start % ALIGNMENT + (inputs - 1) * columns + outputs;
}

/** The part of a tensor [L,S] from a matrix in the first block to the same one in the last. */
function stackOf(t: Tensor, matrix: MuonMatrix, { first, L }: MatrixBatch): Tensor {
  const S = t.shape[1]!, { start } = matrix;
  const shape = [(L - 1) * S + lengthOf(matrix)];
  return viewTensor(t, { offset: first * S + start - start % ALIGNMENT, shape });
}

/** Where the values of a matrix lie in such a stack. */
function placeOf(
  { shape: [, S] }: Tensor,
  { start, columns, inputs, outputs }: MuonMatrix,
  width: MatrixBatch["width"],
) {
  return {
    S: S! / width,
    start: start % ALIGNMENT / width,
    columns: columns / width,
    outputs: outputs / width,
    elements: inputs * outputs / width,
  };
}
