// y = the product.
fn store(m: u32, n: u32, sum: value) {
  y[indexOf(m, n)] = yType(completed(m, n, sum));
}
