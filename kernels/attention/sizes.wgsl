// What the kernels of this folder are told at run time: one pipeline serves every length.
struct Sizes {
  dropout: vec4u, // site, threshold, bits of 1 / (1 - rate)
  T: u32,
}

// The first token that a query sees.
fn firstSeen(query: u32) -> u32 {
  return select(0u, query - (WINDOW - 1), query >= WINDOW);
}
