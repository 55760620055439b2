// What the kernels of this folder are told at run time. With T a constant, compilers unroll the walk over
// the sequence: seconds to compile, and code that no instruction cache holds (NVIDIA, November 2026:
// T 1024 took three times as long per operation as T 2048, which was too long to unroll).
struct Sizes {
  dropout: vec4u, // site, threshold, bits of 1 / (1 - rate)
  T: u32,
  quads: u32, // HS / 4 and WORKGROUP_X again, for loops that should stay loops
  lanes: u32,
}
