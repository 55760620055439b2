import { Argument } from "@commander-js/extra-typings";
import { type KernelSource, kernelSources } from "./kernel_sources.ts";
import { command, output, runCommand } from "../commands/command.ts";
import { specialize, unroll } from "../kernels/shader.ts";
import { quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";

/** `kernel`: the WGSL that an op runs. */
const program = command(
  "kernel",
  "Print the WGSL that an op runs; without a variant, list the variants.",
)
  .argument("[op]", "the op, a folder of kernels/, such as matmul")
  .argument("[variant]", "the variant, such as 64x64/1, or a file, such as tiles")
  .addArgument(
    new Argument("[type]", "element type of the matrices").choices(["f16", "f32"] as const),
  )
  .option("--source", "print it before loops are unrolled")
  .option("--all", "print it for every set of constants, not only for the first of each file")
  .action((op, variant, type, options) =>
    runCommand(() => {
      const words = [op, variant, type].filter((word) => word !== undefined);
      output(`${print(kernelSources(), words, options).trimEnd()}\n`);
      return Promise.resolve();
    })
  );

/** The WGSL of the selected kernels, or a list of them. */
function print(
  sources: readonly KernelSource[],
  words: readonly string[],
  { source, all }: { source?: boolean | undefined; all?: boolean | undefined },
): string {
  const found = select(sources, words);
  if (words.length < 2) return listOf(found);
  const text = ({ shader, constants }: KernelSource) => {
    const specialized = specialize(shader, constants);
    const values = Object.entries(constants).map(([name, value]) => `${name} ${value}`);
    return `// ${values.join(", ")}\n${source ? specialized : unroll(specialized)}`;
  };
  const firsts = Map.groupBy(found, ({ file }) => file).values().map(([first]) => first!);
  return (all ? found : [...firsts]).map(text).join("\n\n");
}

/**
 * The kernels that an op, a variant or file, and a type name. The variant may be left out before a type if only one
 * variant has that type.
 *
 * @throws {UserError} with the kernels that there are if there is none, or if a type alone names several.
 */
function select(sources: readonly KernelSource[], words: readonly string[]): KernelSource[] {
  const [op] = words;
  if (op === undefined) return [...sources];
  const ofOp = sources.filter((kernel) => kernel.op === op);
  if (ofOp.length === 0) {
    throw new UserError(
      `Cannot print ${quoted(op)} as it must be an op of the list below`,
      { hint: `The ops: ${[...new Set(sources.map(({ op }) => op))].join(", ")}` },
    );
  }
  const isType = words.length === 2 && /^f(16|32)$/.test(words[1]!);
  const [, variant, type] = isType ? [op, undefined, words[1]] : words;
  const found = ofOp.filter((kernel) =>
    (variant === undefined || kernel.variant === variant || kernel.file === variant) &&
    (type === undefined || kernel.dtype === type)
  );
  const isUnclear = isType && new Set(found.map(({ variant }) => variant)).size > 1;
  if (found.length > 0 && !isUnclear) return found;
  throw new UserError(
    `Cannot print ${quoted(words.join(" "))} as ${
      isUnclear ? "it must name a variant: several have that type" : `${op} has no such kernel`
    }`,
    { hint: `The variants and types of ${op}:\n${listOf(ofOp)}` },
  );
}

/** A line per op, variant and type, with the files of the variant if they are not its name. */
function listOf(sources: readonly KernelSource[]): string {
  const groups = Map.groupBy(sources, ({ op, variant, dtype }) => `${op} "${variant}" ${dtype}`);
  return [...groups].map(([name, kernels]) => {
    const files = new Set(
      kernels.filter(({ file, variant }) => file !== variant).map(({ file }) => file),
    );
    return `${name}  ${kernels.length} ${kernels.length === 1 ? "set" : "sets"} of constants` +
      (files.size > 0 ? ` of ${[...files].sort().join(", ")}` : "");
  }).join("\n");
}

await program.parseAsync();
