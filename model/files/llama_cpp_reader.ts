import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "../../files/disk.ts";
import { CONFIG_FILE } from "../../files/names.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import { frequenciesOf, type RotaryScaling } from "../../kernels/rope/rotation.ts";
import {
  type CompleteConfig,
  type GptConfig,
  headsOf,
  LARGEST,
  validateConfig,
  withDefaults,
  withoutDefaults,
} from "../config.ts";
import { type GgufReadValue, parseGgufHeader } from "./gguf_reader.ts";
import {
  type Architecture,
  type ArchitectureName,
  ARCHITECTURES,
  FREQUENCIES,
  reordered,
  transposed,
  wavelengthFactors,
} from "./llama_cpp.ts";
import {
  haveSameValues,
  openParts,
  placedReader,
  type TensorFiles,
  type TensorReader,
} from "./tensor_files.ts";
import { HEAD, nameInFile } from "./tensor_names.ts";

/**
 * Models in GGUF files of llama.cpp's architectures: their tensors under Hugging Face's names, and their configurations.
 *
 * @module
 */

/** A model in a GGUF file. */
export interface GgufModel extends TensorFiles {
  /** Its configuration. */
  readonly config: GptConfig;
  /** All values of the file, including those of its tokenizer. */
  readonly values: ReadonlyMap<string, GgufReadValue>;
}

/** Whether a file is read as GGUF, by its name. */
export function isGguf(name: string): boolean {
  return /\.gguf$/i.test(name);
}

/**
 * Finds the GGUF file at a path, which names the file, or a directory without `config.json` that holds one.
 *
 * @returns the path of the file; undefined if there is none.
 */
export function ggufIn(path: string): string | undefined {
  try {
    if (!statSync(path).isDirectory()) return isGguf(path) ? path : undefined;
    const names = readdirSync(path), files = names.filter(isGguf);
    return files.length === 1 && !names.includes(CONFIG_FILE) ? join(path, files[0]!) : undefined;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return undefined;
  }
}

/**
 * Opens a GGUF file with a model of a supported architecture. Its tensors get Hugging Face's names and shapes; those that
 * such a model does not have keep their names.
 *
 * @throws {UserError} if it cannot be read, or if it holds another architecture.
 */
export function openGguf(path: string): GgufModel {
  const { size, read, close } = openParts(path);
  try {
    const { values, tensors: places } = parseGgufHeader(read, size, path);
    const architecture = architectureIn(values, path), plain = new Map<string, TensorReader>();
    for (const [name, place] of places) {
      if (name === FREQUENCIES) continue; // the configuration has them
      const known = nameFromLlamaCpp(name, ARCHITECTURES[architecture]);
      plain.set(known ?? name, placedReader(place, read));
    }
    const frequencies = places.get(FREQUENCIES);
    const factors = frequencies && placedReader(frequencies, read);
    const config = configOf(architecture, values, { tensors: plain, factors }, path);
    const tensors = new Map(
      Array.from(
        plain,
        ([name, reader]) => [name, asStored(name, reader, architecture, headsOf(config))],
      ),
    );
    if (!config.ownHead) tensors.delete(HEAD);
    return { config, values, tensors, paths: [path], close };
  } catch (error) {
    close();
    throw error;
  }
}

/** The name of a tensor in Hugging Face's files, by that in llama.cpp; undefined if it has none. */
function nameFromLlamaCpp(
  stored: string,
  { family, names }: Pick<Architecture, "family" | "names">,
): string | undefined {
  const [, block, module, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(stored) ?? [];
  const name = Object.keys(names).find((ours) => names[ours] === module);
  if (name === undefined) return undefined;
  const layers = family === "llama" ? "layers" : "h";
  return nameInFile(`${block === undefined ? "" : `${layers}.${block}.`}${name}.${kind}`, family);
}

/** The reader of a tensor that is changed as a whole; reading any part of it reads all of it. */
function changedReader(
  { shape, floats }: TensorReader,
  changedShape: readonly number[],
  change: (values: Float32Array<ArrayBuffer>) => Float32Array<ArrayBuffer>,
): TensorReader {
  const count = shape.reduce((product, dim) => product * dim, 1);
  return {
    shape: changedShape,
    floats: (first, length) => change(floats(0, count)).subarray(first, first + length),
  };
}

/** A tensor as Hugging Face's files have it. */
function asStored(
  name: string,
  reader: TensorReader,
  architecture: ArchitectureName,
  { heads, keyHeads, headSize }: ReturnType<typeof headsOf>,
): TensorReader {
  const { shape } = reader;
  if (ARCHITECTURES[architecture].family === "gpt2" && /\.c_\w+\.weight$/.test(name)) {
    return shape.length !== 2
      ? reader
      : changedReader(reader, shape.toReversed(), (values) => transposed(values, shape));
  }
  const [, part] = /\.self_attn\.([qk])_proj\.(?:weight|bias)$/.exec(name) ?? [];
  const ofPart = part === "q" ? heads : keyHeads;
  if (architecture !== "llama" || part === undefined || shape[0] !== ofPart * headSize) {
    return reader;
  }
  return changedReader(
    reader,
    shape,
    (values) => reordered(values, { heads: ofPart, headSize, to: "halves" }),
  );
}

/** The architecture that a file says it has. */
function architectureIn(
  values: ReadonlyMap<string, GgufReadValue>,
  where: string,
): ArchitectureName {
  const name = values.get("general.architecture");
  if (typeof name === "string" && Object.hasOwn(ARCHITECTURES, name)) {
    return name as ArchitectureName;
  }
  throw new UserError(
    `Cannot load ${where} as general.architecture must be ${
      Object.keys(ARCHITECTURES).join(", ")
    }: current value is ${quoted(name)}`,
  );
}

/** Reads the configuration of a model from the values and tensors of its file. */
function configOf(
  architecture: ArchitectureName,
  values: ReadonlyMap<string, GgufReadValue>,
  { tensors, factors }: {
    tensors: ReadonlyMap<string, TensorReader>;
    factors: TensorReader | undefined;
  },
  where: string,
): GptConfig {
  const refuse = (requirement: string, value: unknown) =>
    new UserError(`Cannot load ${where} as ${requirement}: current value is ${quoted(value)}`);
  const { family, epsilon: epsilonName, required } = ARCHITECTURES[architecture];
  const get = (name: string) => values.get(`${architecture}.${name}`);
  const whole = (name: string, fallback?: number) => {
    const value = get(name) ?? fallback;
    if (Number.isSafeInteger(value)) return value as number;
    throw refuse(`${architecture}.${name} must be a whole number`, value);
  };
  const number = (name: string, fallback?: number) => {
    const value = get(name) ?? fallback;
    if (typeof value === "number") return shortest(value);
    throw refuse(`${architecture}.${name} must be a number`, value);
  };
  const must = (name: string, wanted: number | boolean, meaning: string) => {
    const value = get(name) ?? wanted;
    if (value !== wanted) throw refuse(`${architecture}.${name} must be ${meaning}`, value);
  };
  const tensor = (name: string) => tensors.get(nameInFile(name, family));
  const embedding = tensor("wte.weight"), head = tensors.get(HEAD);
  if (embedding?.shape.length !== 2) {
    throw refuse("token_embd.weight must be a matrix", embedding?.shape);
  }
  const normEpsilon = number(epsilonName), heads = whole("attention.head_count");
  const width = whole("embedding_length"), layers = whole("block_count");
  if (layers < 1 || layers > LARGEST.layers) {
    throw refuse(`${architecture}.block_count must be from 1 to ${LARGEST.layers}`, layers);
  }
  must("expert_count", 0, "0");
  must("use_parallel_residual", false, "false");
  if (family === "gpt2") {
    must("attention.head_count_kv", heads, `that of all heads, ${heads}`);
  }
  const config: GptConfig = {
    vocabularySize: embedding.shape[0]!,
    contextLength: whole("context_length"),
    width,
    layers,
    heads,
    family,
    innerWidth: whole("feed_forward_length"),
    normEpsilon,
    // a file may repeat the token embedding as the head
    ownHead: head !== undefined && !haveSameValues(head, embedding),
    positions: required.positions,
    ...(required.positions === "rotary" ? { rotaryBase: number("rope.freq_base", 10_000) } : {}),
    ...(family === "gpt2" ? {} : {
      qkNorm: required.qkNorm,
      keyHeads: whole("attention.head_count_kv", heads),
      headSize: whole("attention.key_length", width / heads),
      qkvBias: tensor("layers.0.self_attn.q_proj.bias") !== undefined,
      projectionBias: tensor("layers.0.self_attn.o_proj.bias") !== undefined,
      mlpBias: tensor("layers.0.mlp.up_proj.bias") !== undefined,
    }),
  };
  const { headSize } = headsOf(config);
  must("attention.value_length", headSize, `that of keys, ${headSize}`);
  must("rope.dimension_count", headSize, `the size of heads, ${headSize}`);
  validateConfig(config, `load ${where}`);
  const type = get("rope.scaling.type"), hasFactor = get("rope.scaling.factor") !== undefined;
  if (type !== undefined && type !== "none" && type !== "linear") {
    throw refuse(`${architecture}.rope.scaling.type must be none or linear`, type);
  }
  const linear = type === "none" || !hasFactor ? 1 : number("rope.scaling.factor");
  const rotaryScaling: RotaryScaling | undefined = factors
    ? scalingOf(factors, withDefaults(config), refuse)
    : linear === 1
    ? undefined
    : { type: "linear", factor: linear };
  const scaled = rotaryScaling ? { ...config, rotaryScaling } : config;
  validateConfig(scaled, `load ${where}`);
  return withoutDefaults(scaled);
}

/** Largest relative difference between factors of wavelengths, which are f32. */
const FACTOR_TOLERANCE = 1e-5;

/**
 * The scaling of rotary positions whose wavelengths have these factors: Llama 3's, as no other has factors in a file.
 * They determine the original context length only in units of `lowFrequencyFactor`, which is 1 in all of Llama's models.
 */
function scalingOf(
  reader: TensorReader,
  config: CompleteConfig,
  refuse: (requirement: string, value: unknown) => Error,
): RotaryScaling {
  const { headSize, rotaryBase: base } = config, pairs = headSize / 2;
  if (reader.shape.join() !== `${pairs}`) {
    throw refuse(`${FREQUENCIES} must have a factor for each of ${pairs} pairs`, reader.shape);
  }
  const factors = [...reader.floats(0, pairs)], factor = shortest(Math.max(...factors));
  // between the ends of its range 1 / factors is a linear function of 1 / wavelength
  const frequencies = frequenciesOf({ headSize, base });
  const points = factors.flatMap((value, i) =>
    value > 1 && value < factor
      ? [{ x: frequencies[i]! / (2 * Math.PI), kept: (1 / value - 1 / factor) / (1 - 1 / factor) }]
      : []
  );
  const first = points[0], last = points.at(-1), candidates = [{ length: 8192, high: 4 }]; // Llama 3.1 and 3.2
  if (first && last && first !== last) {
    const slope = (first.kept - last.kept) / (first.x - last.x);
    const high = 1 - 1 / (first.kept - slope * first.x);
    candidates.push({ length: Math.round(slope * (high - 1)), high: Number(high.toPrecision(4)) });
  } else if (first) {
    candidates.push({ length: Math.round((3 * first.kept + 1) / first.x), high: 4 });
  }
  for (const { length, high } of candidates) {
    const scaling: RotaryScaling = {
      type: "llama3",
      factor,
      lowFrequencyFactor: 1,
      highFrequencyFactor: high,
      originalContextLength: length,
    };
    const found = wavelengthFactors(scaling, config);
    if (found.every((value, i) => Math.abs(value / factors[i]! - 1) < FACTOR_TOLERANCE)) {
      return scaling;
    }
  }
  throw refuse(`${FREQUENCIES} must hold the factors of Llama 3's rotary positions`, factors);
}

/** The shortest decimal number that rounds to the same f32. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}
