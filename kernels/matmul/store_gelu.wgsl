// y = the product, and activated = gelu(y): what leaves the first half of an MLP.   activated: as y
@group(0) @binding(FIRST + 2) var<storage, read_write> activated: array<yType>;

fn store(m: u32, n: u32, sum: value) {
  let i = indexOf(m, n);
  let rounded = yType(completed(m, n, sum)); // what the backward pass will see
  y[i] = rounded;
  activated[i] = yType(gelu(value(rounded)));
}
