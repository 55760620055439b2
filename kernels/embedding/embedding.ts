import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import backwardLongRuns from "./backward_long_runs.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { POSITIONS } from "../positions.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import type { Device } from "../device.ts";
import { rowSlice, rowSlices } from "../slices.ts";
import { assertVectors, ceilDiv, type Tensor } from "../tensor.ts";

/**
 * Vectors of four columns per workgroup: COLUMNS in the backward pass, COLUMNS to MOST_COLUMNS in the
 * forward pass.
 */
const COLUMNS = 16, MOST_COLUMNS = 64;

/** Scales of whose multiples a slice may start, 256 bytes. */
const ALIGNED_SCALES = 64;

/** Slices of a token embedding that fit in a binding, with what the shaders bind of each. */
export function tableSlices(
  device: Device,
  { wte, scales }: { wte: Tensor; scales: Tensor | undefined },
) {
  return rowSlices(device, wte, { multipleOf: scales ? ALIGNED_SCALES : 1 }).map((slice) => ({
    slice,
    table: scales
      ? { int8Wte: slice.view, scales: rowSlice(scales, slice).view }
      : { wte: slice.view },
  }));
}

/**
 * y[m] = wte[tokens[m]] + wpe[positions[m]], the sum of token embedding and position embedding; without wpe
 * y[m] = wte[tokens[m]].
 *
 * tokens: u32 [M], each below V; positions: u32 [M], each below T, m % T by default; wte: f32 [V,C], or i8 with scales:
 * f32 [V], the factors of its rows; wpe: f32 [maxT,C], T ≤ maxT; y: [M,C], f32 or f16; C is a multiple of four. A wte
 * too large for one binding is bound in slices. Rows of y whose token is not below V are not written.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, C is not a multiple of
 * four, or T is above maxT.
 */
export function embeddingForward(
  program: Program,
  { tokens, positions, wte, scales, wpe }: {
    tokens: Tensor;
    positions?: Tensor | undefined;
    wte: Tensor;
    scales?: Tensor | undefined;
    wpe?: Tensor | undefined;
  },
  { y }: { y: Tensor },
  { T }: { T: number },
): void {
  const action = "embeddingForward";
  const { M, C } = dims(action, {
    wte: [wte, "V,C", scales ? "i8" : "f32"],
    scales: [scales, "V", "f32"],
    wpe: [wpe, "maxT,C", "f32"],
    tokens: [tokens, "M", "u32"],
    positions: [positions, "M", "u32"],
    y: [y, "M,C", "f32|f16"],
  });
  assertVectors(action, { wte });
  checkLength(action, T, wpe);
  const columns = Math.min(MOST_COLUMNS, Math.max(COLUMNS, 2 ** Math.ceil(Math.log2(C / 4))));
  const ROWS = 256 / columns;
  for (const { slice: { first, rows }, table } of tableSlices(program.device, { wte, scales })) {
    program.dispatch({
      shader: { "kernels/embedding/forward.wgsl": forward, ...POSITIONS },
      constants: {
        yType: `vec4<${y.dtype}>`,
        COLUMNS: columns,
        ROWS,
        POSITIONS: wpe !== undefined,
        QUANTIZED: scales !== undefined,
        APART: wpe !== undefined && positions !== undefined,
      },
      tensors: { tokens, positions, ...table, wpe, y },
      uniforms: { firstToken: first, slicedTokens: rows, M, T, columns4: C / 4 },
      workgroups: splitWorkgroups(ceilDiv(M, ROWS)),
      iterations: ceilDiv(C / 4, columns),
    });
  }
}

/**
 * Gradients of `embeddingForward()` without positions. With positions that of wpe is the gradient of an embedding of
 * the positions: that of dwte, with the positions as tokens.
 *
 * tokens: u32 [M], each below V; order: u32 [M], the places sorted by token; dy: [M,C], f32 or f16.
 * dwte: f32 [V,C] is added to; dwpe: f32 [maxT,C], if it is given, is set, or with `accumulate` added to.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, C is not a multiple of
 * four, T is above maxT, or M is not a multiple of T; {LimitError} as `Program.dispatch()` does.
 */
export function embeddingBackward(
  program: Program,
  { tokens, order, dy }: { tokens: Tensor; order: Tensor; dy: Tensor },
  { dwte, dwpe }: { dwte: Tensor; dwpe?: Tensor | undefined },
  { T, accumulate = false }: { T: number; accumulate?: boolean },
): void {
  const action = "embeddingBackward";
  const { M, C, maxT = 0 } = dims(action, {
    dwte: [dwte, "V,C", "f32"],
    dwpe: [dwpe, "maxT,C", "f32"],
    tokens: [tokens, "M", "u32"],
    order: [order, "M", "u32"],
    dy: [dy, "M,C", "f32|f16"],
  });
  assertVectors(action, { dwte });
  checkLength(action, T, dwpe);
  if (M % T !== 0) {
    throw new RangeError(
      `Cannot run ${action} as tokens must hold whole sequences of ${T}: ` +
        `current length of "${tokens.name}" is ${M}`,
    );
  }

  const CHUNK = 16, ROWS = 8, SHARES = 8;
  const AHEAD = 4; // SwiftShader compiles 4 rows in 0.1 s, but 8 in 33 s
  const BLOCK = ROWS * CHUNK, blocks = ceilDiv(M, BLOCK);
  const partials = program.scratch([blocks, 2, C]);
  for (const { first, rows, view } of rowSlices(program.device, dwte)) {
    const uniforms = { firstToken: first, slicedTokens: rows, M, columns4: C / 4 };
    const KINDS = first === 0 && dwpe ? 2 : 1; // the first launch also sums over positions
    program.dispatch({
      shader: { "kernels/embedding/backward.wgsl": backward },
      constants: {
        dyType: `vec4<${dy.dtype}>`,
        CHUNK,
        AHEAD,
        ROWS,
        COLUMNS,
        KINDS,
        POSITIONS: dwpe !== undefined,
      },
      tensors: { tokens, order, dy, dwte: view, partials, dwpe },
      uniforms: { ...uniforms, maxT, T, accumulate },
      workgroups: [
        ...splitWorkgroups(Math.max(blocks, KINDS === 2 ? ceilDiv(maxT, ROWS) : 0)),
        ceilDiv(C / 4, COLUMNS) * KINDS,
      ],
      iterations: Math.max(CHUNK + 2 * ROWS, M / T),
      workgroupBytes: 8 * ROWS * (CHUNK + 2) + 32 * ROWS * COLUMNS,
    });
    if (blocks === 1) continue;
    program.dispatch({
      shader: { "kernels/embedding/backward_long_runs.wgsl": backwardLongRuns },
      constants: { BLOCK, COLUMNS, SHARES },
      tensors: { tokens, order, partials, dwte: view },
      uniforms,
      workgroups: [ceilDiv(blocks - 1, SHARES), 1, ceilDiv(C / 4, COLUMNS)],
      iterations: ceilDiv(blocks, SHARES), // at worst one run through nearly all blocks
      workgroupBytes: 20 * COLUMNS * SHARES + 3 * 16,
    });
  }
}

/**
 * Makes sure that there is a position for each of T tokens.
 *
 * @throws {RangeError} otherwise.
 */
export function checkLength(
  action: string,
  T: number,
  positions: Tensor | undefined,
): void {
  if (!positions) return;
  const { name, shape: [maxT] } = positions;
  if (T >= 1 && T <= maxT!) return;
  throw new RangeError(
    `Cannot run ${action} as T must be 1 to ${maxT}, the positions of "${name}": ` +
      `current value is ${T}`,
  );
}
