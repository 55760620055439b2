// Positions of tokens in their documents, of which a row may hold several.   positions: [B,T]
const APART: bool = true; // whether positions are given; else every row is one document

// a binding number that no file uses with which this one is joined
// only if APART
@group(0) @binding(22) var<storage, read> positions: array<u32>;

// The position of token m of [B,T].
fn positionOf(m: u32, T: u32) -> u32 {
  var position = m % T;
  // only if APART
  position = positions[m];
  return position;
}
