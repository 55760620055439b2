import positions from "./positions.wgsl" with { type: "text" };
import type { Shader } from "./shader.ts";

/** The function positionOf(), for shaders that depend on the positions of tokens. */
export const POSITIONS: Shader = { "kernels/positions.wgsl": positions };
