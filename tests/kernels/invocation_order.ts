import type { Device } from "../../kernels/device.ts";

/**
 * A CPU adapter computes the invocations of a workgroup in their order, one subgroup after the other up to a barrier.
 * So a barrier that is missing shows if a subgroup reads what a later one writes, but not if it reads what an earlier
 * one has written. In the kernels that tests compile, the order therefore depends on the workgroup; long ones, which would take
 * minutes to compile, all begin with the second half of their invocations.
 *
 * @module
 */

/** Characters of a kernel from which all its workgroups have one order. */
const LONG = 30_000;

/** Lets a CPU adapter compute the invocations of each workgroup of a device's kernels in one of three orders. */
export function mixInvocationOrder({ gpu, isCpu }: Device): void {
  if (!isCpu) return;
  const create = gpu.createShaderModule.bind(gpu);
  gpu.createShaderModule = ({ code, ...rest }) => create({ ...rest, code: inMixedOrder(code) });
}

/**
 * The text of a kernel of whose workgroups one third begins with the second half of the invocations, one third with the
 * first, and one third with the last invocation; lines keep their numbers. A kernel whose subgroups exchange values stays
 * as it is.
 */
function inMixedOrder(code: string): string {
  const [, sizes] = /@workgroup_size\(([^)]*)\)/.exec(code) ?? [];
  const [main, args] = /^fn main\(([^{]*)\) \{/m.exec(code) ?? [];
  const [argument, builtin, name] =
    /@builtin\((local_invocation_id|local_invocation_index)\) (\w+)/.exec(args ?? "") ?? [];
  if (/\bsubgroup[A-Z]/.test(code)) return code;
  if (sizes === undefined || main === undefined || argument === undefined) return code;
  const [, own] = /@builtin\(workgroup_id\) (\w+)/.exec(args!) ?? [], group = own ?? "groupOfOrder";
  const isId = builtin === "local_invocation_id", type = isId ? "vec3u" : "u32";
  const [x, y = "1u", z = "1u"] = sizes.split(",").map((size) => `u32(${size.trim()})`);
  const all = isId ? `vec3u(${x}, ${y}, ${z})` : `${x} * ${y} * ${z}`;
  const order = code.length < LONG ? "(group.x + group.y + group.z) % 3u" : "0u";
  return code.replace(main, () =>
    main.replace(argument, `${argument}InOrder`)
      .replace("(", own === undefined ? `(@builtin(workgroup_id) ${group}: vec3u, ` : "(") +
    ` let ${name} = mixedOrder(${name}InOrder, ${group});`) + `
fn mixedOrder(place: ${type}, group: vec3u) -> ${type} {
  let all = ${all};
  let order = ${order};
  return select(select(all - 1u - place, place, order == 1u), (place + all / 2u) % all, order == 0u);
}
`;
}
