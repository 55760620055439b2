import { printable, quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { fillNormal } from "../kernels/normal/normal.ts";
import { Program } from "../kernels/program.ts";
import { download, size, upload, viewTensor } from "../kernels/tensor.ts";
import { type Family, type GptConfig, withDefaults } from "./config.ts";
import {
  HEAD,
  isBuffer,
  nameFromFile,
  nameInFile,
  reorderHeads,
  storedName,
  type StoredTensor,
  storedTensors,
} from "./files/tensor_names.ts";
import { adapterValues, isAdapter, loraScale, mergeLora, nameInAdapterFile } from "./files/lora.ts";
import { fromFloat32, type SafetensorsEntry } from "./files/safetensors.ts";
import { haveSameValues, PART, readerOf, type TensorReader } from "./files/tensor_files.ts";
import { type Gpt, masterOf, setQuantized } from "./gpt.ts";
import { adaptersOf, type ParameterSpec, parameterTable, weightBeside } from "./parameters.ts";

/**
 * Fills a model with initial values, drawn on the device. A value is a function of the seed, the parameter
 * and the index in it.
 *
 * @param options.seed 32 bits.
 * @param options.parameters which ones; all by default.
 * @param options.zeroProjections whether the projections onto the residual stream are zero at first, so that the model
 * begins with the embeddings alone (Zhang et al. 2019, https://arxiv.org/abs/1901.09321; in muP too,
 * https://arxiv.org/abs/2203.03466).
 */
export function initializeParameters(
  model: Gpt,
  { seed, parameters = model.table, zeroProjections = false }: {
    seed: number;
    parameters?: readonly ParameterSpec[];
    zeroProjections?: boolean;
  },
): void {
  using program = new Program(model.device);
  for (const { name, initial, stream } of parameters) {
    const isZero = zeroProjections && name.endsWith(".c_proj.weight");
    const values = isZero ? { mean: 0, deviation: 0 } : initial;
    const tensors = [masterOf(model, name), model.copies?.tensors.get(name)];
    for (const y of tensors) if (y) fillNormal(program, { y }, { ...values, seed, stream });
  }
  program.run();
}

/** Most names of tensors in a message, and most characters of each. */
const MOST_NAMES = 20, LONGEST_NAME = 80;

/** Names of tensors as part of a message. */
export function listOfNames(names: readonly string[]): string {
  return names.slice(0, MOST_NAMES).map((name) => printable(name, LONGEST_NAME)).join(", ") +
    (names.length > MOST_NAMES ? ` and ${names.length - MOST_NAMES} more` : "");
}

/**
 * The tensors of a model's files, by their names there, for which the model has no parameter. Buffers
 * and the matrix of the head are not among them.
 */
export function unexpectedTensors(config: GptConfig, names: Iterable<string>): string[] {
  const { lora: _, ...whole } = config;
  const known = new Set(
    parameterTable(whole).flatMap((spec) => storedTensors(whole, spec).map(({ name }) => name)),
  );
  return [...names].filter((stored) => {
    const name = nameFromFile(stored);
    return !known.has(name) && name !== HEAD && !isBuffer(name);
  });
}

/**
 * Fills all parameters of a model except its adapters from the tensors of its files, which may have any
 * float type.
 *
 * Names may have the prefixes that `nameFromFile()` removes. Buffers are ignored, and so are a head's
 * matrix that equals the token embedding and whatever `unexpectedTensors()` names. If the files hold more positions
 * than the model has, the first are used.
 *
 * @param where the files' path, for error messages.
 * @param options.changes by parameter name, a function that changes the values before they are loaded, such
 * as one that merges an adapter.
 * @throws {UserError} if a parameter is missing, there twice, or of another shape.
 */
export function loadParameters(
  model: Gpt,
  tensors: ReadonlyMap<string, SafetensorsEntry | TensorReader>,
  where: string,
  { changes = new Map() }: { changes?: ReadonlyMap<string, (values: Float32Array) => void> } = {},
): void {
  const readers = readersByName(tensors, where), { config } = model;
  const wanted = model.table.filter(({ name }) => !isAdapter(name))
    .map((spec) => ({ spec, parts: storedTensors(config, spec) }));
  checkReaders(readers, wanted.flatMap(({ parts }) => parts), config, where);

  let waiting = 0; // elements that the device may not have taken yet
  const set = (name: string, first: number, values: Float32Array) => {
    setElements(model, name, first, values);
    if ((waiting += values.length) < 4 * PART) return;
    model.device.gpu.queue.submit([]); // until then uploads wait in memory
    waiting = 0;
  };
  for (const { spec: { name, shape }, parts } of wanted) {
    const [whole] = parts;
    const change = changes.get(name);
    const isCopied = parts.length === 1 && !whole!.transposed && !whole!.interleavedHeads &&
      !change;
    if (isCopied && !model.quantized?.has(name)) {
      const reader = readers.get(whole!.name)!, count = size(shape);
      for (let first = 0; first < count; first += PART) {
        set(name, first, reader.floats(first, Math.min(PART, count - first)));
      }
      continue;
    }
    const values = new Float32Array(size(shape)), columns = shape.at(-1)!;
    for (const { name, firstColumn, shape, transposed, interleavedHeads } of parts) {
      const inFile = readers.get(name)!.floats(0, size(shape));
      const stored = reorderHeads(inFile, { interleavedHeads, to: "parameter" });
      copyColumns(stored, values, { shape, transposed, firstColumn, columns });
    }
    change?.(values);
    set(name, 0, values);
  }
}

/** Readers of the tensors of files by their names without prefixes; buffers are left out. */
function readersByName(
  tensors: ReadonlyMap<string, SafetensorsEntry | TensorReader>,
  where: string,
): Map<string, TensorReader> {
  const readers = new Map<string, TensorReader>(), givenNames = new Map<string, string>();
  for (const [given, tensor] of tensors) {
    const name = nameFromFile(given), other = givenNames.get(name);
    if (isBuffer(name)) continue;
    if (other !== undefined) {
      throw new UserError(
        `Cannot load ${where} as it must hold ${quoted(name)} once: ` +
          `current names are ${quoted(other)} and ${quoted(given)}`,
      );
    }
    givenNames.set(name, given);
    readers.set(name, asReader(tensor));
  }
  return readers;
}

/** Checks that every tensor that a model needs is there in its shape, and that a shared head is the token embedding. */
function checkReaders(
  readers: ReadonlyMap<string, TensorReader>,
  needed: readonly StoredTensor[],
  { family, ownHead }: GptConfig,
  where: string,
): void {
  const missing = needed.map(({ name }) => name).filter((name) => !readers.has(name));
  if (missing.length > 0) {
    throw new UserError(
      `Cannot load ${where} as it must hold every parameter: current missing names are ${
        listOfNames(missing)
      }`,
    );
  }
  for (const { name, shape } of needed) {
    const current = readers.get(name)!.shape;
    const [rows, ...rest] = shape, [currentRows, ...currentRest] = current;
    const fits = name === storedName("wpe.weight", family)
      ? currentRows! >= rows!
      : currentRows === rows;
    if (!fits || rest.join() !== currentRest.join()) {
      throw new UserError(
        `Cannot load ${where} as "${name}" must have shape [${shape}]: current shape is [${current}]`,
      );
    }
  }
  if (!ownHead && readers.has(HEAD)) {
    checkTiedHead(readers.get(HEAD)!, readers.get(storedName("wte.weight", family))!, where);
  }
}

function asReader(tensor: SafetensorsEntry | TensorReader): TensorReader {
  return "floats" in tensor ? tensor : readerOf(tensor);
}

/** Copies a stored tensor into its columns of a parameter. */
function copyColumns(
  stored: Float32Array,
  values: Float32Array,
  { shape, transposed, firstColumn, columns }: {
    shape: readonly number[];
    transposed: boolean;
    firstColumn: number;
    columns: number;
  },
): void {
  const [outputs, inputs = 1] = shape as [number, number?];
  if (!transposed) return values.set(stored, firstColumn); // whole, or a bias
  for (let c = 0; c < inputs; c++) {
    const row = c * columns + firstColumn;
    for (let n = 0; n < outputs; n++) values[row + n] = stored[n * inputs + c]!;
  }
}

/** Returns the columns of a parameter that a stored tensor holds. */
function takeColumns(
  values: Float32Array,
  { shape, transposed, firstColumn, columns }: {
    shape: readonly number[];
    transposed: boolean;
    firstColumn: number;
    columns: number;
  },
): Float32Array<ArrayBuffer> {
  const [outputs, inputs = 1] = shape as [number, number?];
  if (!transposed) {
    return Float32Array.from(values.subarray(firstColumn, firstColumn + size(shape)));
  }
  const stored = new Float32Array(size(shape));
  for (let c = 0; c < inputs; c++) {
    const row = c * columns + firstColumn;
    for (let n = 0; n < outputs; n++) stored[n * inputs + c] = values[row + n]!;
  }
  return stored;
}

/** Checks that a head which config.json ties to the token embedding equals it. */
function checkTiedHead(head: TensorReader, embedding: TensorReader, where: string): void {
  if (haveSameValues(head, embedding)) return;
  throw new UserError(
    `Cannot load ${where} as "${HEAD}" must be the token embedding, as the model's config.json says: ` +
      `it differs; if the head has a separate matrix, set tie_word_embeddings to false there`,
  );
}

/**
 * All parameters under Hugging Face's names, which its transformers opens together with the result of
 * `toHuggingFaceConfig()`. Adapters are merged into the weights that they adapt.
 *
 * @param options.dtype element type to which they are rounded; f32 by default.
 * @param options.family family whose names and shapes they get; by default the model's. That of a file is `familyOf()`
 * of its `config.json`.
 */
export async function saveParameters(
  model: Gpt,
  { dtype = "F32", family = model.config.family ?? "gpt2" }: {
    dtype?: "F32" | "F16";
    family?: Family;
  } = {},
): Promise<Map<string, SafetensorsEntry>> {
  const { config, table } = model;
  const values = await downloadParameters(model, table);
  for (const adapter of adaptersOf(config)) {
    const [A, B, weight] = [adapter.A, adapter.B, weightBeside(adapter)]
      .map((name) => values.get(name)!);
    const { rank } = config.lora!, scale = loraScale(config.lora!);
    mergeLora({ rank, scale, module: adapter.module }, { A: A!, B: B! }, weight!);
  }
  const parameters = table.filter(({ name }) => !isAdapter(name));
  return storedEntries({ ...withDefaults(config), family }, parameters, values, { dtype });
}

/** Values of parameters as the tensors of a model's file. */
export function storedEntries(
  config: GptConfig,
  parameters: readonly ParameterSpec[],
  values: ReadonlyMap<string, Float32Array<ArrayBuffer>>,
  { dtype = "F32" }: { dtype?: "F32" | "F16" } = {},
): Map<string, SafetensorsEntry> {
  const entries = new Map<string, SafetensorsEntry>();
  for (const spec of parameters.toSorted((a, b) => a.stream - b.stream)) {
    const whole = values.get(spec.name)!, columns = spec.shape.at(-1)!;
    const parts = storedTensors(config, spec);
    for (const { name, shape, transposed, firstColumn, interleavedHeads } of parts) {
      const part = parts.length === 1 && !transposed
        ? whole
        : takeColumns(whole, { shape, transposed, firstColumn, columns });
      const values = reorderHeads(part, { interleavedHeads, to: "file" });
      entries.set(nameInFile(name, config.family), fromFloat32(values, shape, dtype));
    }
  }
  return entries;
}

/**
 * Fills a model's adapters from the tensors of an `adapter_model.safetensors`.
 *
 * @param where the file's path, for error messages.
 * @throws {UserError} if a tensor is missing, unknown, or of another shape.
 */
export function loadAdapters(
  model: Gpt,
  tensors: ReadonlyMap<string, SafetensorsEntry | TensorReader>,
  where: string,
): void {
  const readers = new Map(Array.from(tensors, ([name, tensor]) => [name, asReader(tensor)]));
  const { rank } = model.config.lora!;
  const adapters = adaptersOf(model.config).map((adapter) => ({ ...adapter, rank }));
  for (const [name, values] of adapterValues(model.config, adapters, readers, where)) {
    setElements(model, name, 0, values);
  }
}

/** A model's adapters under PEFT's names. */
export async function saveAdapters(model: Gpt): Promise<Map<string, SafetensorsEntry>> {
  const adapters = model.table.filter(({ name }) => isAdapter(name));
  const values = await downloadParameters(model, adapters);
  for (const { B, module: { interleavedHeads } } of adaptersOf(model.config)) {
    values.set(B, reorderHeads(values.get(B)!, { interleavedHeads, to: "file" }));
  }
  return new Map(adapters.map(({ name, shape }) => [
    nameInAdapterFile(name, model.config),
    fromFloat32(values.get(name)!, shape, "F32"),
  ]));
}

async function downloadParameters(
  model: Gpt,
  parameters: readonly ParameterSpec[],
): Promise<Map<string, Float32Array<ArrayBuffer>>> {
  const tensors = parameters.map(({ name }) => masterOf(model, name));
  const values = await download(model.device, ...tensors);
  return new Map(
    parameters.map(({ name }, i) => [name, values[i] as Float32Array<ArrayBuffer>]),
  );
}

/**
 * Sets elements of a parameter's master and, under autocast, of its f16 copy, rounded to nearest even. A quantised
 * matrix needs all elements at once.
 */
export function setElements(model: Gpt, name: string, first: number, values: Float32Array): void {
  const matrix = model.quantized?.get(name);
  if (matrix) return setQuantized(model.device, name, matrix, values);
  const shape = [values.length];
  for (const whole of [masterOf(model, name), model.copies?.tensors.get(name)]) {
    if (whole) upload(model.device, viewTensor(whole, { offset: first, shape }), values);
  }
}
