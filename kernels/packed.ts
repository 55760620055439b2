import packedF16 from "./packed_f16.wgsl" with { type: "text" };
import packedF32 from "./packed_f32.wgsl" with { type: "text" };
import type { Shader } from "./shader.ts";
import type { DType } from "./tensor.ts";

/** The functions of packed_f16.wgsl or packed_f32.wgsl, for shaders that keep what they fetch as it is stored. */
export function packedOf(dtype: DType): Shader {
  return dtype === "f16"
    ? { "kernels/packed_f16.wgsl": packedF16 }
    : { "kernels/packed_f32.wgsl": packedF32 };
}
