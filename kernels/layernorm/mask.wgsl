// backward.wgsl's output() where x was a sum with dropout(z): dz = dropout's mask over dx.   dz: [M,C]
alias zType = vec4<f16>;
const DROPOUT: bool = false;

@group(0) @binding(6) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(7) var<storage, read_write> dz: array<zType>;

fn output(i: u32, slope: vec4f) {
  dx[i] = slope;
  var kept = slope;
  if (DROPOUT) { kept *= fourDropoutFactors(random[0], random[1], sizes.dropout, 4 * i); }
  dz[i] = zType(kept);
}
