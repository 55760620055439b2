// Sums over the lanes of a row, in workgroup memory.
const SHARES: u32 = LANES * ROWS;
var<workgroup> shares: array<vec2f, SHARES>;

fn rowSums(values: vec2f, local: vec3u) -> vec2f {
  let place = local.y * LANES + local.x;
  workgroupBarrier(); // the sums before have been read
  shares[place] = values;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[place] += shares[place + half]; }
  }
  workgroupBarrier();
  return shares[local.y * LANES];
}
