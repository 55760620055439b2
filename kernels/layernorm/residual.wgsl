// forward.wgsl's input() where x + dropout(z) is normalised, which is written to sum.   z, sum: [M,C]
alias zType = vec4<f16>;
const DROPOUT: bool = false;

@group(0) @binding(5) var<storage, read> z: array<zType>;
@group(0) @binding(6) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(7) var<storage, read_write> sum: array<vec4f>;

fn input(i: u32) -> vec4f {
  var added = vec4f(z[i]);
  if (DROPOUT) { added *= fourDropoutFactors(random[0], random[1], sizes.dropout, 4 * i); }
  added += vec4f(x[i]);
  sum[i] = added;
  return added;
}
