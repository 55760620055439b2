// @ts-check
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />

/**
 * Requests of the playground.
 *
 * @module
 */

/** The settings of a request by name. @typedef {Record<string, number>} Settings */

/**
 * A token; of a text also the whole characters that it completes.
 * @typedef {{ id: number, text: string, piece?: string }} Token
 */

/** A token with its probability. @typedef {Token & { probability: number }} TokenProbability */

/**
 * What a model expects after a token, and the token that follows.
 * @typedef {object} Prediction
 * @property {TokenProbability[]} top
 * @property {TokenProbability & { rank: number, loss: number }} [next]
 */

/**
 * A part of a completion.
 * @typedef {object} Choice
 * @property {number} index
 * @property {string} text
 * @property {number[]} token_ids
 * @property {number[]} [prompt_token_ids]
 * @property {"stop" | "length" | null} finish_reason
 */

/** What is said if the server does not answer. */
export const NO_SERVER = "Cannot reach the server: is deno task dashboard still running?";

/** A request that the server refuses: why, and the field that is wrong. */
export class Refusal extends Error {
  /**
   * @param {string} message
   * @param {string | null} field
   */
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/**
 * Sends a request.
 *
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {Promise<Response>}
 * @throws {Refusal}
 */
async function post(path, body, signal) {
  const request = {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  };
  const response = await fetch(path, request).catch((error) => {
    if (signal.aborted) throw error;
    throw new Refusal(NO_SERVER, null);
  });
  if (response.ok) return response;
  const { error } = await response.json();
  throw new Refusal(error.message, error.param ?? null);
}

/**
 * Asks what a model does inside.
 *
 * @param {"predictions" | "sampler" | "attention" | "lens" | "neighbours"} what
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {Promise<any>} as docs/playground.md describes it
 */
export async function inspect(what, body, signal) {
  return await (await post(`/api/inspect/${what}`, body, signal)).json();
}

/**
 * The settings of the sampler that are usual.
 *
 * @returns {Promise<Record<string, { value: number, must: string }>>}
 */
export async function usualSettings() {
  return await (await fetch("/api/inspect/settings")).json();
}

/**
 * Continues a prompt, or answers a message of the user, piece by piece.
 *
 * @param {{ model: string, prompt: string } | { model: string, messages: object[] }} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Choice & { model: string }, void>}
 */
export async function* complete(body, signal) {
  const request = { ...body, stream: true, return_token_ids: true };
  const path = "messages" in body ? "/v1/chat/completions" : "/v1/completions";
  const { body: bytes } = await post(path, request, signal);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (bytes).getReader();
  const utf8 = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    const events = (text + utf8.decode(value, { stream: !done })).split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const { error, choices, model } = JSON.parse(data);
      if (error) throw new Refusal(error.message, error.param ?? null);
      const [{ delta, ...choice }] = choices;
      yield { ...delta ? { text: delta.content } : {}, ...choice, model };
    }
    if (done) throw new Refusal("Cannot complete: the server ended the answer", null);
  }
}
