import { Argument } from "@commander-js/extra-typings";
import { type KernelSource, kernelSources } from "./kernel_sources.ts";
import { command, output, run } from "../commands/command.ts";
import { specialize, unroll } from "../kernels/shader.ts";
import { taskCommand } from "../files/command_line.ts";

/** `kernel`: the WGSL that an op runs. */
const program = command(
  "kernel",
  "Print the WGSL that an op runs; without a variant, list the variants.",
)
  .argument("[op]", "the op, a folder of kernels/, such as matmul")
  .argument("[variant]", "the variant, such as 64x64/1")
  .addArgument(
    new Argument("[type]", "element type of the matrices").choices(["f16", "f32"] as const),
  )
  .option("--source", "print it before loops are unrolled")
  .option("--all", "print it for every set of constants, not only for the first")
  .action((op, variant, type, options) =>
    run(() => {
      output(print(kernelSources(), { op, variant, type }, options));
      return Promise.resolve();
    })
  );

/** The WGSL of the selected kernels, or a list of them. */
function print(
  sources: readonly KernelSource[],
  { op, variant, type }: Record<"op" | "variant" | "type", string | undefined>,
  { source, all }: { source?: boolean | undefined; all?: boolean | undefined },
): string {
  const found = sources.filter((kernel) =>
    (op === undefined || kernel.op === op) &&
    (variant === undefined || kernel.variant === variant) &&
    (type === undefined || kernel.dtype === type)
  );
  if (found.length === 0) {
    const asked = [op, variant, type].filter((word) => word !== undefined).join(" ");
    throw new RangeError(
      `Cannot print ${asked} as no kernel has that name: ${taskCommand("kernel")} lists them`,
    );
  }
  if (variant === undefined) return listOf(found);
  const text = ({ shader, constants }: KernelSource) => {
    const specialized = specialize(shader, constants);
    const values = Object.entries(constants).map(([name, value]) => `${name} ${value}`);
    return `// ${values.join(", ")}\n${source ? specialized : unroll(specialized)}`;
  };
  return (all ? found : found.slice(0, 1)).map(text).join("\n\n");
}

/** A line per op, variant and type. */
function listOf(sources: readonly KernelSource[]): string {
  const groups = Map.groupBy(sources, ({ op, variant, dtype }) => `${op} "${variant}" ${dtype}`);
  return [...groups].map(([name, { length }]) =>
    `${name}  ${length} ${length === 1 ? "set" : "sets"} of constants`
  ).join("\n");
}

await program.parseAsync();
