// How many tokens a query sees, itself and those before it: those in its window that belong to its document.
// Needs positions from ../positions.wgsl.
const WINDOW: u32 = 0x80000000; // most tokens that a query sees

// The number of tokens that the query of token m of [B,T] sees.
fn seenBy(m: u32) -> u32 {
  var seen = WINDOW;
  // only if APART
  seen = min(seen, positions[m] + 1);
  return seen;
}

// The first key that query t of a sequence sees.
fn firstSeenBy(t: u32, seen: u32) -> u32 {
  return select(0u, t - (seen - 1), t >= seen);
}
