import decode from "./decode.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import type { Program } from "../program.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";
import { attentionConstants, type AttentionScores, checkHeads } from "./attention.ts";

/**
 * Causal attention of S new tokens per text, over the keys and values of earlier tokens in a cache and over
 * their own, which are added to the cache.
 *
 * qkv: [B·S,(NH+2KH)·HS]; cursors: u32 [B,2], per text the index of its first new token, and of the token at
 * position 0; keys, values: [B,KH,T,HS], the cache, in which the rows of the new positions below T are set; y:
 * [B·S,NH·HS]. All but cursors have the same type, f32 or f16. Scale and window are those of `attentionForward()`.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type, if KH does not divide NH, or if HS
 * is not a multiple of four up to `MOST_HEAD_SIZE`.
 */
export function attentionDecode(
  program: Program,
  { qkv, cursors }: { qkv: Tensor; cursors: Tensor },
  { keys, values, y }: { keys: Tensor; values: Tensor; y: Tensor },
  scores: AttentionScores = {},
): void {
  const action = "attentionDecode";
  const { B, NH, KH, T, HS, S } = dims(action, {
    keys: [keys, "B,KH,T,HS", "f32|f16"],
    values: [values, "B,KH,T,HS", keys.dtype],
    cursors: [cursors, "B,2", "u32"],
    y: [y, "B·S,NH·HS", keys.dtype],
  });
  const known = { B, S, HS, QKV: NH + 2 * KH };
  dims(action, { qkv: [qkv, "B·S,QKV·HS", keys.dtype] }, known);
  checkHeads(action, { NH, KH, HS });
  // at least one invocation per vector of a head
  const WORKGROUP_SIZE = program.device.isCpu
    ? Math.max(32, 2 ** Math.ceil(Math.log2(HS / 4)))
    : 256;
  const keysPerIteration = Math.floor(4 * WORKGROUP_SIZE / HS) * HS / 4;
  program.dispatch({
    shader: { "kernels/attention/decode.wgsl": decode },
    constants: {
      real4: `vec4<${keys.dtype}>`,
      NH,
      KH,
      HS,
      WORKGROUP_SIZE,
      ...attentionConstants(scores),
    },
    tensors: { qkv, cursors, keys, values, y },
    uniforms: { S, T },
    workgroups: [NH, B * S],
    iterations: ceilDiv(T + S, keysPerIteration) * (1 + Math.log2(WORKGROUP_SIZE)) +
      2 * Math.log2(WORKGROUP_SIZE),
    workgroupBytes: HS * 4 + WORKGROUP_SIZE * 20,
  });
}
