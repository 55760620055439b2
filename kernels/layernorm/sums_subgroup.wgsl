// Sums over the lanes of a row where they are a subgroup: no barriers, which small rows pay dearly.
fn rowSums(values: vec2f, local: vec3u) -> vec2f {
  return subgroupAdd(values);
}
