import { attentionDecode } from "../kernels/attention/attention.ts";
import { embeddingDecode } from "../kernels/embedding/embedding.ts";
import { layernormForward } from "../kernels/layernorm/layernorm.ts";
import { linearForward } from "../kernels/linear/linear.ts";
import { Program } from "../kernels/program.ts";
import { createTensor, download, type DType, type Tensor, upload } from "../kernels/tensor.ts";
import { type Gpt, masterOf, matrixOf } from "../model/gpt.ts";
import { headLogits } from "../model/head.ts";
import { dtypesOf } from "../model/precision.ts";

/** A model that reads one token at a time and remembers keys and values of those before. */
export interface Decoder {
  /**
   * Reads tokens that follow those read so far and predicts the next.
   *
   * @returns logits [V].
   * @throws {RangeError} if a token is not of the vocabulary, or if there is none.
   */
  next(tokens: readonly number[]): Promise<Float32Array<ArrayBuffer>>;
  /** Forgets everything read. */
  reset(): void;
  /** Frees the cache. */
  destroy(): void;
}

/**
 * Where the model's view of a text begins once `length` tokens have been read.
 *
 * GPT-2 knows `contextLength` positions. A longer text is seen from a later token on, and that start
 * moves by half a context at a time: the model always sees at least half a context, and the cache,
 * which holds positions from the start, is filled anew only once every half context.
 */
export function windowStart(length: number, contextLength: number): number {
  if (length <= contextLength) return 0;
  const stride = Math.max(1, Math.floor(contextLength / 2));
  return Math.ceil((length - contextLength) / stride) * stride;
}

/** Allocates a key-value cache and records the pass of one token through the model. */
export function createDecoder(model: Gpt): Decoder {
  const { device, config, precision } = model;
  const { vocabularySize: V, contextLength: L, width: C, layers, heads: NH } = config;
  const dtypes = dtypesOf(precision);
  const owned: Tensor[] = [];
  const tensor = (name: string, shape: number[], dtype: DType) => {
    const created = createTensor(device, name, { shape, dtype });
    owned.push(created);
    return created;
  };
  const matrixRow = (name: string, length: number) => tensor(name, [1, length], dtypes.matrix);

  const cursor = tensor("cursor", [2], "u32"); // token, position
  const streams = [0, 1].map((i) => tensor(`x ${i}`, [1, C], dtypes.stream));
  const ln = matrixRow("ln", C), qkv = matrixRow("qkv", 3 * C), attention = matrixRow("y", C);
  const hidden = matrixRow("hidden", 4 * C), gelu = matrixRow("gelu", 4 * C);
  const projected = matrixRow("projected", C), logits = matrixRow("logits", V);
  const statistics = tensor("statistics", [1, 2], dtypes.statistic);

  const program = new Program(device);
  const [x, middle] = streams as [Tensor, Tensor];
  embeddingDecode(
    program,
    { cursor, wte: masterOf(model, "wte.weight"), wpe: masterOf(model, "wpe.weight") },
    { y: x },
  );
  const layernorm = (name: string, inputs: { x: Tensor; z?: Tensor }, sum?: Tensor) => {
    const weight = masterOf(model, `${name}.weight`), bias = masterOf(model, `${name}.bias`);
    const outputs = { y: ln, statistics, ...(sum ? { sum } : {}) };
    layernormForward(program, { ...inputs, weight, bias }, outputs);
  };
  layernorm("h.0.ln_1", { x });
  for (let i = 0; i < layers; i++) {
    const matrix = (name: string) => matrixOf(model, `h.${i}.${name}.weight`);
    const cache = (name: string) => tensor(`${name} ${i}`, [NH, L, C / NH], dtypes.matrix);
    const linear = (input: Tensor, name: string, y: Tensor, activated?: Tensor) => {
      const bias = masterOf(model, `h.${i}.${name}.bias`);
      const outputs = { y, ...(activated ? { activated } : {}) };
      linearForward(program, { x: input, weight: matrix(name), bias }, outputs);
    };

    linear(ln, "attn.c_attn", qkv);
    attentionDecode(program, { qkv, cursor }, {
      keys: cache("keys"),
      values: cache("values"),
      y: attention,
    });
    linear(attention, "attn.c_proj", projected);
    layernorm(`h.${i}.ln_2`, { x, z: projected }, middle);
    linear(ln, "mlp.c_fc", hidden, gelu);
    linear(gelu, "mlp.c_proj", projected);
    layernorm(i + 1 < layers ? `h.${i + 1}.ln_1` : "ln_f", { x: middle, z: projected }, x);
  }
  headLogits(program, { x: ln, wte: matrixOf(model, "wte.weight") }, { logits });

  let history: number[] = [];
  let cached = { start: 0, end: 0 }; // the cache holds history[start, end)
  return {
    async next(tokens) {
      const unknown = tokens.find((id) => !Number.isInteger(id) || id < 0 || id >= V);
      if (unknown !== undefined || history.length + tokens.length === 0) {
        throw new RangeError(
          `Cannot predict a token as the text must be one or more ids below ${V}: ` +
            `current ${unknown === undefined ? "text is empty" : `id is ${unknown}`}`,
        );
      }
      history.push(...tokens);
      const start = windowStart(history.length, L);
      if (start !== cached.start) cached = { start, end: start };
      if (cached.end === history.length) cached.end--; // asked again: read the last token again
      for (; cached.end < history.length; cached.end++) {
        upload(device, cursor, [history[cached.end]!, cached.end - start]);
        program.run();
      }
      const [values] = await download(device, logits);
      return values as Float32Array<ArrayBuffer>;
    },
    reset() {
      history = [];
      cached = { start: 0, end: 0 };
    },
    destroy() {
      program.destroy();
      for (const { buffer } of owned) buffer.destroy();
    },
  };
}
