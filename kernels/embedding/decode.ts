import decode from "./decode.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { tableSlices } from "./embedding.ts";
import { assertVectors, ceilDiv, type Tensor } from "../tensor.ts";

/**
 * y = wte[token] + wpe[position] for the next S tokens of each text, which generation computes; without wpe
 * y = wte[token].
 *
 * tokens: u32 [slots,N]; cursors: u32 [B,4], per row the index of the next token in its text, that of the token at
 * position 0, the row of its text in `tokens`, and a number that is not read; wte: f32 [V,C], or i8 with scales: f32 [V],
 * the factors of its rows; wpe: f32 [maxT,C]; y: [B·S,C], f32 or f16. C is a multiple of four. A wte too large for one
 * binding is bound in slices.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, or C is not a multiple of
 * four.
 */
export function embeddingDecode(
  program: Program,
  { tokens, cursors, wte, scales, wpe }: {
    tokens: Tensor;
    cursors: Tensor;
    wte: Tensor;
    scales?: Tensor | undefined;
    wpe?: Tensor | undefined;
  },
  { y }: { y: Tensor },
): void {
  const action = "embeddingDecode";
  const { B, N, C, maxT = 0, S } = dims(action, {
    tokens: [tokens, "slots,N", "u32"],
    cursors: [cursors, "B,4", "u32"],
    wte: [wte, "V,C", scales ? "i8" : "f32"],
    scales: [scales, "V", "f32"],
    wpe: [wpe, "maxT,C", "f32"],
    y: [y, "B·S,C", "f32|f16"],
  });
  assertVectors(action, { wte });
  const M = B * S, WORKGROUP_SIZE = 64;
  for (const { slice: { first, rows }, table } of tableSlices(program.device, { wte, scales })) {
    program.dispatch({
      shader: { "kernels/embedding/decode.wgsl": decode },
      constants: {
        yType: `vec4<${y.dtype}>`,
        WORKGROUP_SIZE,
        POSITIONS: wpe !== undefined,
        QUANTIZED: scales !== undefined,
      },
      tensors: {
        tokens,
        cursors,
        ...table,
        wpe,
        y,
      },
      uniforms: { firstToken: first, slicedTokens: rows, M, S, N, maxT, columns4: C / 4 },
      workgroups: splitWorkgroups(ceilDiv(M * C / 4, WORKGROUP_SIZE)),
    });
  }
}
