import type { Device } from "../../kernels/device.ts";

/**
 * A CPU adapter computes the invocations of a workgroup in their order, one subgroup after the other up to a barrier.
 * So a barrier that is missing shows if a subgroup reads what a later one writes, but not if it reads what an earlier
 * one has written. In half of the kernels that tests compile, the last invocations therefore come first.
 *
 * @module
 */

/** Lets a CPU adapter compute half of the kernels backwards; which ones, their texts decide. */
export function mixInvocationOrder({ gpu, isCpu }: Device): void {
  if (!isCpu) return;
  const create = gpu.createShaderModule.bind(gpu);
  gpu.createShaderModule = ({ code, ...rest }) =>
    create({ ...rest, code: isBackward(code) ? backwards(code) : code });
}

/** Whether the sum of a text's characters is odd. */
function isBackward(code: string): boolean {
  let sum = 0;
  for (let i = 0; i < code.length; i++) sum += code.charCodeAt(i);
  return sum % 2 === 1;
}

/**
 * The text of a kernel whose last invocation of each workgroup is the first; lines keep their numbers. One whose
 * subgroups exchange values stays as it is.
 */
export function backwards(code: string): string {
  const [, sizes] = /@workgroup_size\(([^)]*)\)/.exec(code) ?? [];
  if (sizes === undefined || /\bsubgroup[A-Z]/.test(code)) return code;
  const [x, y = "1", z = "1"] = sizes.split(",").map((size) => `u32(${size})`);
  const main =
    /(^fn main\([^{]*@builtin\((local_invocation_id|local_invocation_index)\) )(\w+)([^{]*\{)/m;
  return code.replace(main, (_, before, builtin, name, after) => {
    const last = builtin === "local_invocation_id"
      ? `vec3u(${x}, ${y}, ${z}) - 1u`
      : `${x} * ${y} * ${z} - 1u`;
    return `${before}${name}InOrder${after} let ${name} = ${last} - ${name}InOrder;`;
  });
}
