// y = the product · gelu'(hidden): what comes back through GELU.   hidden: as y
@group(0) @binding(FIRST + 2) var<storage, read> hidden: array<yType>;

fn store(m: u32, n: u32, sum: value) {
  let i = indexOf(m, n);
  y[i] = yType(completed(m, n, sum) * geluSlope(value(hidden[i])));
}
