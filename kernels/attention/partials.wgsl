// Which blocks of keys leave their part of dq in which of P partial sums. Early blocks are seen by more
// queries than late ones, so every other lap over the partial sums runs backwards:
//
//     block     0 1 2 3 4 5 6 7 8 …
//     partial   0 1 2 2 1 0 0 1 2 …   of three
fn blockOf(lap: u32, partial: u32, P: u32) -> u32 {
  return lap * P + select(P - 1 - partial, partial, lap % 2 == 0);
}

fn partialOf(block: u32, P: u32) -> u32 {
  return select(P - 1 - block % P, block % P, block / P % 2 == 0);
}
