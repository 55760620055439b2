import { fillNormal } from "../kernels/normal/normal.ts";
import { Program } from "../kernels/program.ts";
import { download, size, type Tensor, upload } from "../kernels/tensor.ts";
import type { GptConfig } from "./config.ts";
import { type Gpt, masterOf } from "./gpt.ts";
import { parameterTable } from "./parameters.ts";
import { fromFloat32, type SafetensorsEntry, toFloat32 } from "./safetensors.ts";

/** What Hugging Face puts before every name of a GPT2LMHeadModel except the head's. */
const PREFIX = "transformer.";

/**
 * Fills a model with GPT-2's initial values, drawn on the device: a function of the seed, the place in
 * the parameter table, and the place in the parameter.
 *
 * @param options.seed 32 bits.
 */
export function initializeParameters(model: Gpt, { seed }: { seed: number }): void {
  const program = new Program(model.device);
  parameterTable(model.config).forEach(({ name, initial }, stream) => {
    const tensors = [masterOf(model, name), model.copies?.tensors.get(name)];
    for (const y of tensors) if (y) fillNormal(program, { y }, { ...initial, seed, stream });
  });
  program.run();
  program.destroy();
}

/**
 * Fills a model from the tensors of a `model.safetensors`, of any float type.
 *
 * @param where the file's path, for error messages.
 * @throws {RangeError} if a parameter is missing, unknown, or of another shape.
 */
export function loadParameters(
  model: Gpt,
  tensors: ReadonlyMap<string, SafetensorsEntry>,
  where: string,
): void {
  const table = parameterTable(model.config);
  const known = new Set(table.map(({ name }) => PREFIX + name));
  const unknown = [...tensors.keys()].filter((name) => !known.has(name));
  if (unknown.length > 0) {
    throw new RangeError(
      `Cannot load ${where} as it must hold GPT-2's parameters alone: ` +
        `current unknown names are ${unknown.join(", ")}`,
    );
  }
  for (const { name, shape } of table) {
    const entry = tensors.get(PREFIX + name);
    if (!entry) throw new RangeError(`Cannot load ${where} as "${PREFIX + name}" is missing`);
    if (entry.shape.join() !== shape.join()) {
      throw new RangeError(
        `Cannot load ${where} as "${PREFIX + name}" must have shape [${shape}]: ` +
          `current shape is [${entry.shape}]`,
      );
    }
    setParameter(model, name, toFloat32(entry));
  }
}

/** All parameters under Hugging Face's names, f32, in the order of the parameter table. */
export async function saveParameters(model: Gpt): Promise<Map<string, SafetensorsEntry>> {
  return await downloadTable(
    model.config,
    (name) => model.parameters.tensors.get(name)!,
    PREFIX,
    model,
  );
}

/** Reads one f32 tensor for every parameter back, under `prefix` and the parameter's name. */
export async function downloadTable(
  config: GptConfig,
  tensorOf: (name: string) => Tensor,
  prefix: string,
  { device }: Pick<Gpt, "device">,
): Promise<Map<string, SafetensorsEntry>> {
  const entries = new Map<string, SafetensorsEntry>();
  const table = parameterTable(config);
  const values = await download(device, ...table.map(({ name }) => tensorOf(name)));
  table.forEach(({ name, shape }, i) => {
    entries.set(prefix + name, fromFloat32(values[i] as Float32Array<ArrayBuffer>, shape, "F32"));
  });
  return entries;
}

/** Sets a parameter's master and, under autocast, its f16 copy, which rounds to nearest even. */
function setParameter(model: Gpt, name: string, values: Float32Array): void {
  const master = model.parameters.tensors.get(name)!;
  if (values.length !== size(master.shape)) {
    throw new RangeError(
      `Cannot set "${name}" as it has ${
        size(master.shape)
      } values: current number is ${values.length}`,
    );
  }
  upload(model.device, master, values);
  const copy = model.copies?.tensors.get(name);
  if (copy) upload(model.device, copy, values);
}
