import weights from "./weights.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import type { Program } from "../program.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";
import { attentionConstants, type AttentionOptions, checkHeads } from "./attention.ts";

const WORKGROUP_SIZE = 64;

/**
 * p = softmax(scale · q · kᵀ), the weights with which `attentionForward()` adds up the values, without dropout.
 *
 * qkv: [B·T,(NH+2KH)·HS], f32 or f16; logSumExp: f32 [B,NH,T] of `attentionForward()`; p: f32 [B,NH,T,T], 0 for the keys
 * that a query does not see.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function attentionWeights(
  program: Program,
  { qkv, logSumExp }: { qkv: Tensor; logSumExp: Tensor },
  { p }: { p: Tensor },
  { T, heads: NH, keyHeads: KH = NH, ...scores }: Omit<AttentionOptions, "dropout" | "variant">,
): void {
  const action = "attentionWeights";
  const { B, HS } = dims(action, {
    qkv: [qkv, "B·T,QKV·HS", "f32|f16"],
    logSumExp: [logSumExp, "B,NH,T", "f32"],
    p: [p, "B,NH,T,T", "f32"],
  }, { T, NH, QKV: NH + 2 * KH });
  checkHeads(action, { NH, KH, HS });
  program.dispatch({
    shader: { "kernels/attention/weights.wgsl": weights },
    constants: {
      real4: `vec4<${qkv.dtype}>`,
      NH,
      KH,
      HS,
      WORKGROUP_SIZE,
      ...attentionConstants(scores),
    },
    tensors: { qkv, logSumExp, p },
    uniforms: { T },
    workgroups: [ceilDiv(T, WORKGROUP_SIZE), T, B * NH],
    iterations: HS / 4,
  });
}
