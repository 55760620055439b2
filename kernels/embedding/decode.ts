import decode from "./decode.wgsl" with { type: "text" };
import { type Program, splitWorkgroups } from "../program.ts";
import { rowSlices } from "../slices.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

/**
 * y = wte[token] + wpe[position] of the next S tokens that generation reads of every text.
 *
 * tokens: u32 [B,N]; cursors: u32 [B,2], for every text the index in it of the next token to read, and of
 * the token at position 0; wte: f32 [V,C]; wpe: f32 [L,C]; y: [B·S,C], f32 or f16. C is a multiple of
 * four. A wte too large for one binding is walked in slices.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function embeddingDecode(
  program: Program,
  { tokens, cursors, wte, wpe }: { tokens: Tensor; cursors: Tensor; wte: Tensor; wpe: Tensor },
  { y }: { y: Tensor },
): void {
  const action = "embeddingDecode";
  const [B, N] = tokens.shape as [number, number];
  const [L, C] = wpe.shape as [number, number];
  const M = y.shape[0]!, S = M / B;
  if (!Number.isInteger(S) || C % 4 !== 0) {
    throw new RangeError(
      `Cannot run ${action} as "${y.name}" must be [B·S,C] with C a multiple of 4: ` +
        `current shape is [${y.shape}] with B ${B}`,
    );
  }
  assertShape(action, cursors, [B, 2]);
  assertShape(action, wte, [wte.shape[0]!, C]);
  assertShape(action, y, [M, C]);
  for (const t of [tokens, cursors]) assertDType(action, t, "u32");
  for (const t of [wte, wpe]) assertDType(action, t, "f32");
  assertDType(action, y, "f32", "f16");
  const WORKGROUP_SIZE = 64;
  for (const { first, rows, part } of rowSlices(program.device, wte)) {
    program.dispatch({
      label: "kernels/embedding/decode.wgsl",
      source: decode,
      constants: { yType: `vec4<${y.dtype}>`, WORKGROUP_SIZE },
      tensors: [tokens, cursors, part, wpe, y],
      uniforms: [first, rows, M, S, N, L, C / 4],
      workgroups: splitWorkgroups(ceilDiv(M * C / 4, WORKGROUP_SIZE)),
    });
  }
}
