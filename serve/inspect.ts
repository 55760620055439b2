import type { JsonObject } from "../files/json.ts";
import { createDecoder } from "../generate/decoder.ts";
import { windowStart } from "../generate/slots.ts";
import { DEFAULT_SAMPLER, promptIdsOf } from "../generate/request.ts";
import { attentionWeightsOf } from "../inspect/inspect.ts";
import { neighboursOf } from "../inspect/neighbours.ts";
import { attentionByLayer } from "../inspect/pass.ts";
import { logitLensOf, type Prediction, predictionsOf } from "../inspect/predictions.ts";
import { samplerDistributions } from "../inspect/sampler.ts";
import { highest, type Token, type TokenProbability } from "../inspect/tokens.ts";
import { createTensor, download } from "../kernels/tensor.ts";
import { createActivations } from "../model/activations.ts";
import type { RequestContext } from "./answer.ts";
import { ApiError } from "./api_error.ts";
import { checkMemory, type CurrentModel } from "./current_model.ts";
import {
  MOST_ALTERNATIVES,
  MOST_CELLS,
  MOST_INSPECTED_IDS,
  MOST_LENS_IDS,
  MOST_MATRIX_IDS,
  MOST_NEIGHBOUR_IDS,
} from "./limits.ts";
import { checkRequest, type FieldTable, TEXT, whole } from "./request.ts";
import type { ServedModel } from "./served_model.ts";
import { SAMPLER_FIELDS, type SamplerFields, samplerOf } from "./sampler_fields.ts";

/**
 * Requests that look inside a model, below `/api/inspect/`. Each answers with JSON of bounded size.
 *
 * @module
 */

/** A text of a request: ids of tokens, or a prompt that is read as `generate()` reads it. */
interface TextFields {
  model: string;
  ids: readonly number[] | undefined;
  prompt: string;
}

const TEXT_FIELDS: FieldTable<TextFields> = {
  model: TEXT,
  ids: {
    must: `a list of 1 to ${MOST_INSPECTED_IDS} ids of tokens`,
    holds: (value) =>
      Array.isArray(value) && value.length > 0 && value.length <= MOST_INSPECTED_IDS &&
      value.every((id) => Number.isSafeInteger(id) && id >= 0),
    fallback: undefined,
  },
  prompt: { ...TEXT, fallback: "" },
};

/** Number of tokens to name per position. */
const TOP = { ...whole(1, MOST_ALTERNATIVES), fallback: 10 };

/** The ids of a request. */
function idsOf(model: ServedModel, { ids, prompt }: TextFields): readonly number[] {
  const { tokenizer } = model;
  const read = ids ?? promptIdsOf(tokenizer, prompt);
  model.checkIds(read, "ids");
  if (read.length <= MOST_INSPECTED_IDS) return read;
  throw new ApiError(
    400,
    `Cannot inspect as prompt must have at most ${MOST_INSPECTED_IDS} tokens: current number is ${read.length}`,
    { param: "prompt" },
  );
}

/** The last ids of a text that the model sees at once, and the index of the first of them. */
function visible(model: ServedModel, fields: TextFields, most: number) {
  const all = idsOf(model, fields), { contextLength } = model.gpt.config;
  const first = windowStart(all.length, contextLength), ids = all.slice(first);
  if (ids.length <= most) return { first, ids };
  throw new ApiError(
    400,
    `Cannot inspect as the text must have at most ${most} tokens: current number is ${ids.length}`,
    { param: fields.ids === undefined ? "prompt" : "ids" },
  );
}

/** Makes sure that there is memory for a pass over T tokens that keeps what every layer computes. */
function checkPass({ gpt }: ServedModel, T: number, current: CurrentModel): void {
  const { device, config, precision } = gpt, batch = { batchSize: 1, sequenceLength: T };
  checkMemory(device, (dry) => {
    createActivations(dry, config, { batch, precision, purpose: "training" });
    createTensor(dry, "attention weights", { shape: [config.heads, T, T], dtype: "f32" });
  }, { what: `inspect a text of ${T} tokens`, freeBytes: current.freeBytes() });
}

/** A token without its bytes. */
function plain({ id, text }: Token): { id: number; text: string } {
  return { id, text };
}

function plainProbability({ id, text, probability }: TokenProbability) {
  return { id, text, probability };
}

function plainPrediction({ top, entropy, next }: Prediction) {
  return {
    top: top.map(plainProbability),
    entropy,
    ...(next ? { next: { ...plainProbability(next), rank: next.rank, loss: next.loss } } : {}),
  };
}

/** A request that looks inside a model. */
function inspection<Values extends TextFields>(
  fields: FieldTable<Values>,
  look: (
    model: ServedModel,
    values: Values,
    context: { current: CurrentModel; signal: AbortSignal },
  ) => object | Promise<object>,
): (current: CurrentModel, body: JsonObject, context: RequestContext) => Promise<Response> {
  return (current, body, { signal }) => {
    const values = checkRequest(body, fields, "inspect");
    return current.use(values.model, signal, async (model, signal) => {
      using _ = await model.passes.acquire(signal);
      return Response.json({
        model: model.name,
        ...await look(model, values, { current, signal }),
      });
    });
  };
}

const predictions = inspection<TextFields & { top: number }>(
  { ...TEXT_FIELDS, top: TOP },
  async (model, fields, { signal }) => {
    const ids = idsOf(model, fields), decoder = model.tokenizer.decoder();
    const { predictions } = await predictionsOf(model, ids, { top: fields.top, signal });
    return {
      // a character of several tokens is the piece of the last of them
      tokens: ids.map((id) => ({ ...plain(model.token(id)), piece: decoder.push(id) })),
      predictions: predictions.map(plainPrediction),
    };
  },
);

const sampler = inspection<
  TextFields & SamplerFields & { top: number; include: number | undefined }
>(
  {
    ...TEXT_FIELDS,
    ...SAMPLER_FIELDS,
    top: TOP,
    include: { ...whole(0), fallback: undefined },
  },
  async (model, fields) => {
    const { gpt } = model, ids = idsOf(model, fields), { include } = fields;
    if (include !== undefined) model.checkIds([include], "include");
    // the decoder reads the text as generate() does; what it draws does not matter
    using decoder = createDecoder(gpt, {
      prompts: [ids],
      seeds: [0],
      maxNewTokens: 1,
      sampler: DEFAULT_SAMPLER,
    });
    await decoder.next(1);
    const [row] = await download(gpt.device, decoder.logits);
    const logits = row!.slice(0, gpt.config.vocabularySize) as Float32Array;
    const stages = samplerDistributions(logits, { history: ids, sampler: samplerOf(fields) });
    const most = logits.map((_, id) =>
      Math.max(...stages.map(({ probabilities }) => probabilities[id]!))
    );
    return {
      stages: stages.map(({ stage, tokens }) => ({ stage, tokens })),
      candidates: [...new Set([...highest(most, fields.top), include ?? []].flat())].map((id) => ({
        ...plain(model.token(id)),
        probabilities: stages.map(({ probabilities }) => probabilities[id]!),
      })),
    };
  },
);

/** The fields that choose a head: both or none. */
interface HeadFields {
  layer: number | undefined;
  head: number | undefined;
}

const attention = inspection<TextFields & HeadFields>(
  {
    ...TEXT_FIELDS,
    layer: { ...whole(0), fallback: undefined },
    head: { ...whole(0), fallback: undefined },
  },
  async (model, fields, { current, signal }) => {
    const { layers, heads } = model.gpt.config, chosen = headOf(model, fields);
    const { first, ids } = visible(model, fields, MOST_MATRIX_IDS), T = ids.length;
    checkPass(model, T, current);
    const tokens = ids.map((id) => plain(model.token(id)));
    const cells = chosen ? T : Math.min(T, MOST_CELLS);
    const weights = chosen
      ? matrixOf((await attentionWeightsOf(model, ids, chosen)).weights, chosen.head, T)
      : await smallMatrices(model, ids, { cells, signal });
    return { layers, heads, first, tokens, cells, weights: inBytes(weights) };
  },
);

/** The head that a request names, if it names one. */
function headOf(
  { gpt: { config: { layers, heads } } }: ServedModel,
  { layer, head }: HeadFields,
): { layer: number; head: number } | undefined {
  if (layer === undefined && head === undefined) return undefined;
  if (layer === undefined || head === undefined) {
    throw new ApiError(400, "Cannot inspect as layer and head must be given together", {
      param: layer === undefined ? "layer" : "head",
    });
  }
  if (layer < layers && head < heads) return { layer, head };
  throw new ApiError(
    400,
    `Cannot inspect as layer and head must be below ${layers} and ${heads}: ` +
      `current values are ${layer} and ${head}`,
    { param: layer >= layers ? "layer" : "head" },
  );
}

/** The weights of a head, [T,T], in those of its layer, [NH,T,T]. */
function matrixOf(weights: Float32Array, head: number, T: number): Float32Array {
  return weights.subarray(head * T * T, (head + 1) * T * T);
}

/** The weights of all heads as small matrices, [L,NH,cells,cells]. */
async function smallMatrices(
  { gpt }: ServedModel,
  ids: readonly number[],
  { cells, signal }: { cells: number; signal: AbortSignal },
): Promise<Float32Array> {
  const { layers, heads } = gpt.config, T = ids.length;
  const all = new Float32Array(layers * heads * cells * cells);
  let matrix = 0;
  for await (const weights of attentionByLayer(gpt, ids)) {
    signal.throwIfAborted();
    for (let head = 0; head < heads; head++, matrix++) {
      all.set(shrunk(matrixOf(weights, head, T), T, cells), matrix * cells * cells);
    }
  }
  return all;
}

/** A causal matrix of weights, [T,T], as one of [cells,cells]: each cell is the highest weight of its block. */
export function shrunk(weights: Float32Array, T: number, cells: number): Float32Array {
  const small = new Float32Array(cells * cells);
  for (let t = 0; t < T; t++) {
    const row = Math.floor(t * cells / T) * cells;
    for (let s = 0; s <= t; s++) {
      const at = row + Math.floor(s * cells / T);
      small[at] = Math.max(small[at]!, weights[t * T + s]!);
    }
  }
  return small;
}

/** Weights from 0 to 1 as base64 of a byte each, 255 for 1. */
function inBytes(weights: Float32Array): string {
  return Uint8Array.from(weights, (weight) => Math.round(255 * weight)).toBase64();
}

const lens = inspection<TextFields & { top: number }>(
  { ...TEXT_FIELDS, top: { ...TOP, fallback: 3 } },
  async (model, fields, { current }) => {
    const { first, ids } = visible(model, fields, MOST_LENS_IDS);
    checkPass(model, ids.length, current);
    const { layers } = await logitLensOf(model, ids, { top: fields.top });
    return {
      first,
      tokens: ids.map((id) => plain(model.token(id))),
      layers: layers.map((predictions) => predictions.map(plainPrediction)),
    };
  },
);

const neighbours = inspection<TextFields & { top: number }>(
  { ...TEXT_FIELDS, top: TOP },
  async (model, fields) => {
    const { ids } = visible(model, fields, MOST_NEIGHBOUR_IDS);
    const { tokens, neighbours } = await neighboursOf(model, ids, { top: fields.top });
    return {
      tokens: tokens.map(plain),
      neighbours: neighbours.map((nearest) =>
        nearest.map((neighbour) => ({ ...plain(neighbour), cosine: neighbour.cosine }))
      ),
    };
  },
);

/** The requests by path. */
export const INSPECTIONS = {
  "/api/inspect/predictions": predictions,
  "/api/inspect/sampler": sampler,
  "/api/inspect/attention": attention,
  "/api/inspect/lens": lens,
  "/api/inspect/neighbours": neighbours,
};
