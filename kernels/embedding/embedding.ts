import forward from "./forward.wgsl" with { type: "text" };
import backward from "./backward.wgsl" with { type: "text" };
import backwardLongRuns from "./backward_long_runs.wgsl" with { type: "text" };
import runs from "./runs.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { rowSlices } from "../slices.ts";
import { assertDType, assertShape, ceilDiv, size, type Tensor } from "../tensor.ts";

/** Vectors of four columns that a workgroup takes side by side; the forward pass as many as 64 of a long row. */
const COLUMNS = 16, MOST_COLUMNS = 64;

/** Chunks of a batch beyond which `embeddingBackward()` has fewer workgroups for long runs. */
const MANY_CHUNKS = 1024;

/**
 * y[m] = wte[tokens[m]] + wpe[m % T], the sum of token and position embedding.
 *
 * tokens: u32 [M], each below V; wte: f32 [V,C]; wpe: f32 [L,C], T ≤ L; y: [M,C], f32 or f16; C is a
 * multiple of four. A wte too large for one binding is walked in slices. Rows of y whose token is not
 * below V are not written.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, C is no multiple of
 * four, or T is above L.
 */
export function embeddingForward(
  program: Program,
  { tokens, wte, wpe }: { tokens: Tensor; wte: Tensor; wpe: Tensor },
  { y }: { y: Tensor },
  { T }: { T: number },
): void {
  const C = checkTables("embeddingForward", { wte, wpe }, T);
  const M = size(tokens.shape);
  assertDType("embeddingForward", tokens, "u32");
  assertDType("embeddingForward", y, "f32", "f16");
  assertShape("embeddingForward", y, [M, C]);
  const columns = Math.min(MOST_COLUMNS, Math.max(COLUMNS, 2 ** Math.ceil(Math.log2(C / 4))));
  const ROWS = 256 / columns;
  for (const { first, rows, part } of rowSlices(program.device, wte)) {
    program.dispatch({
      label: "kernels/embedding/forward.wgsl",
      source: forward,
      constants: { real4: `vec4<${y.dtype}>`, COLUMNS: columns, ROWS },
      tensors: [tokens, part, wpe, y],
      uniforms: [first, rows, M, T, C / 4],
      workgroups: splitWorkgroups(ceilDiv(M, ROWS)),
      iterations: ceilDiv(C / 4, columns),
    });
  }
}

/**
 * Gradients of `embeddingForward()`.
 *
 * tokens: u32 [M], each below V; order: u32 [M], the positions sorted by token; dy: [M,C], f32 or f16.
 * dwte: f32 [V,C] is added to; dwpe: f32 [L,C] is set, or with `accumulate` added to.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, C is no multiple of
 * four, T is above L, or M no multiple of T; {LimitError} as `Program.dispatch()` does.
 */
export function embeddingBackward(
  program: Program,
  { tokens, order, dy }: { tokens: Tensor; order: Tensor; dy: Tensor },
  { dwte, dwpe }: { dwte: Tensor; dwpe: Tensor },
  { T, accumulate = false }: { T: number; accumulate?: boolean },
): void {
  const action = "embeddingBackward";
  const C = checkTables(action, { wte: dwte, wpe: dwpe }, T);
  const M = size(tokens.shape), L = dwpe.shape[0]!;
  if (M % T !== 0) {
    throw new RangeError(
      `Cannot run ${action} as "${tokens.name}" must hold whole sequences of ${T}: ` +
        `current length is ${M}`,
    );
  }
  for (const t of [tokens, order]) assertDType(action, t, "u32");
  assertShape(action, order, tokens.shape);
  assertDType(action, dy, "f32", "f16");
  assertShape(action, dy, [M, C]);
  const real4 = `vec4<${dy.dtype}>`;

  // shorter chunks would keep more invocations busy, and leave more sums to add up
  const CHUNK = 16, AHEAD = 8, ROWS = 4, SHARES = 8;
  const chunks = ceilDiv(M, CHUNK);
  // of the many chunks of a large batch most have no long run, and a workgroup looks at some in turn
  const CHUNKS = chunks > MANY_CHUNKS ? SHARES : 1;
  const partials = program.scratch([chunks, 2, C]);
  for (const { first, rows, part } of rowSlices(program.device, dwte)) {
    const uniforms = [first, rows, M, C / 4, L, T, accumulate ? 1 : 0];
    const KINDS = first === 0 ? 2 : 1; // positions are added once
    program.dispatch({
      label: "kernels/embedding/backward.wgsl",
      source: `${backward}\n${runs}`,
      constants: { real4, CHUNK, AHEAD, ROWS, COLUMNS, KINDS },
      tensors: [tokens, order, dy, part, partials, dwpe],
      uniforms,
      workgroups: [
        ...splitWorkgroups(ceilDiv(KINDS === 2 ? Math.max(chunks, L) : chunks, ROWS)),
        ceilDiv(C / 4, COLUMNS) * KINDS,
      ],
      iterations: Math.max(CHUNK, M / T),
      workgroupBytes: ROWS * (CHUNK + 2) * 2 * 4,
    });
    if (chunks === 1) continue;
    program.dispatch({
      label: "kernels/embedding/backward_long_runs.wgsl",
      source: `${backwardLongRuns}\n${runs}`,
      constants: { CHUNK, COLUMNS, CHUNKS, SHARES },
      tensors: [tokens, order, partials, part],
      uniforms,
      workgroups: [ceilDiv(chunks - 1, CHUNKS), 1, ceilDiv(C / 4, COLUMNS)],
      // a run of nearly all chunks, and the shares of each that begins here
      iterations: ceilDiv(chunks, SHARES) + CHUNKS * (SHARES + 1),
      workgroupBytes: COLUMNS * SHARES * 16 + CHUNKS * 4,
    });
  }
}

/** Checks both tables and returns their width C. */
function checkTables(
  action: string,
  { wte, wpe }: { wte: Tensor; wpe: Tensor },
  T: number,
): number {
  const C = wte.shape[1]!, L = wpe.shape[0]!;
  assertDType(action, wte, "f32");
  assertDType(action, wpe, "f32");
  assertShape(action, wpe, [L, C]);
  if (C % 4 !== 0) {
    throw new RangeError(
      `Cannot run ${action} as the width of "${wte.name}" must be a multiple of four: ` +
        `current width is ${C}`,
    );
  }
  if (!(T >= 1 && T <= L)) {
    throw new RangeError(
      `Cannot run ${action} as T must be 1 to ${L}, the positions of "${wpe.name}": ` +
        `current value is ${T}`,
    );
  }
  return C;
}
