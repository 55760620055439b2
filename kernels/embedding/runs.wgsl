// What backward.wgsl and backward_long_runs.wgsl share.   tokens, order: [M]
const CHUNK: u32 = 16; // places that one invocation walks over, a multiple of AHEAD
const COLUMNS: u32 = 16; // vectors of four columns that a workgroup takes

struct Sizes {
  firstToken: u32, // of the slice of dwte that is bound
  slicedTokens: u32,
  M: u32,
  columns4: u32, // C / 4
  L: u32, // of dwpe
  T: u32,
  accumulate: u32, // add to what dwpe holds
}

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read> order: array<u32>; // positions sorted by token

const NONE: u32 = 0xffffffff;

// The token at a place in the order, NONE before the first place and past the last.
fn tokenAt(place: u32) -> u32 {
  if (place >= sizes.M) { return NONE; }
  return tokens[order[place]];
}
