// Sums over the lanes of a row where they are a subgroup: no barrier, which a CPU adapter pays dearly.
fn rowSums(values: vec2f, local: vec3u) -> vec2f {
  return subgroupAdd(values);
}
