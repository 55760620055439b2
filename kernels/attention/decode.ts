import decode from "./decode.wgsl" with { type: "text" };
import type { Program } from "../program.ts";
import { attentionConstants, type AttentionScores, MOST_HEAD_SIZE } from "./attention.ts";
import { assertDType, assertShape, ceilDiv, type Tensor } from "../tensor.ts";

/**
 * Attention of S new tokens of every text over the keys and values of the tokens before them, which they
 * join, causal among themselves.
 *
 * qkv: [B·S,3C]; cursors: u32 [B,2], for every text the index in it of its first new token, and of the
 * token at position 0; keys, values: [B,NH,L,HS], their rows at the new positions are set, beyond L there
 * are none; y: [B·S,C]. All but cursors have one type, f32 or f16. HS is a multiple of four. Scale and window
 * are those of `attentionForward()`.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, or if heads are larger
 * than `MOST_HEAD_SIZE`.
 */
export function attentionDecode(
  program: Program,
  { qkv, cursors }: { qkv: Tensor; cursors: Tensor },
  { keys, values, y }: { keys: Tensor; values: Tensor; y: Tensor },
  scores: AttentionScores = {},
): void {
  const action = "attentionDecode";
  const [B, NH, L, HS] = keys.shape as [number, number, number, number];
  const M = qkv.shape[0]!, C = NH * HS, S = M / B;
  // an invocation for each vector of a head, at least
  const WORKGROUP_SIZE = program.device.isCpu
    ? Math.max(32, 2 ** Math.ceil(Math.log2(HS / 4)))
    : 256;
  if (!Number.isInteger(S) || HS % 4 !== 0 || HS > MOST_HEAD_SIZE) {
    throw new RangeError(
      `Cannot run ${action} as "${keys.name}" must be [B,NH,L,HS] with a number of rows of ` +
        `"${qkv.name}" that B divides and HS a multiple of 4 up to ${MOST_HEAD_SIZE}: ` +
        `current shapes are [${keys.shape}] and [${qkv.shape}]`,
    );
  }
  assertShape(action, qkv, [M, 3 * C]);
  assertShape(action, cursors, [B, 2]);
  assertShape(action, values, keys.shape);
  assertShape(action, y, [M, C]);
  assertDType(action, cursors, "u32");
  assertDType(action, qkv, "f32", "f16");
  for (const t of [keys, values, y]) assertDType(action, t, qkv.dtype);
  const keysPerTurn = Math.floor(4 * WORKGROUP_SIZE / HS) * HS / 4;
  program.dispatch({
    label: "kernels/attention/decode.wgsl",
    source: decode,
    constants: { real4: `vec4<${qkv.dtype}>`, HS, WORKGROUP_SIZE, ...attentionConstants(scores) },
    tensors: [qkv, cursors, keys, values, y],
    uniforms: [S, L, C / 4],
    workgroups: [NH, M],
    iterations: ceilDiv(L + S, keysPerTurn) * (1 + Math.log2(WORKGROUP_SIZE)) +
      2 * Math.log2(WORKGROUP_SIZE),
    workgroupBytes: HS * 4 + WORKGROUP_SIZE * 20,
  });
}
