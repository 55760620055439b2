// y = the product times SCALE.
const SCALE: f32 = 1.0;

fn store(m: u32, n: u32, sum: value) {
  y[indexOf(m, n)] = yType(SCALE * completed(m, n, sum));
}
