// What each invocation of a workgroup knows of its subgroup.   y: [INVOCATIONS,4]
//
// A row of y holds the size, the lane, and the indices of the invocations in lanes 0 and 3.
enable subgroups;
const INVOCATIONS: u32 = 64;

@group(0) @binding(0) var<storage, read_write> y: array<vec4u>;

@compute @workgroup_size(INVOCATIONS)
fn main(
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  y[index] = vec4u(size, lane, subgroupBroadcast(index, 0u), subgroupBroadcast(index, 3u));
}
