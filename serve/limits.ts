/**
 * Limits of what a server does for its clients, and why they are what they are. docs/serve.md has a table of them.
 *
 * @module
 */

/** Bytes of a request's body, at most: enough for a hundred thousand tokens, and a bound of the memory per connection. */
export const MOST_BODY_BYTES = 2 ** 20;

/** Milliseconds until all of a body has arrived, at most: a slow network sends a MiB in this time. */
export const MOST_BODY_MS = 30_000;

/** Completions of one request, at most, as OpenAI has it for `n`. */
export const MOST_COMPLETIONS = 128;

/** Tokens of a completion, at most: they may have to be kept until a slow reader takes them. */
export const MOST_TOKENS = 16_384;

/** Texts of `stop`, at most; OpenAI has four, and clients of other servers send more. */
export const MOST_STOPS = 16;

/** UTF-16 units of a text of `stop`, at most: each new token is compared with all of them. */
export const MOST_STOP_UNITS = 256;

/** Alternatives per token in the logprobs of `/v1/completions`, at most, as OpenAI has it; a chat has up to 20. */
export const MOST_COMPLETION_LOGPROBS = 5;

/**
 * Logprobs that a model's answers keep until they have ended, those of alternatives among them, at most: each takes 70 bytes,
 * and the heap of V8 has some 4 GB.
 */
export const MOST_KEPT_LOGPROBS = 2 ** 24;

/** Completions of a model that wait for a slot, at most, by default: four times those that run on a GPU. */
export const QUEUE = 256;

/** Seconds that an answer may take, with its time in the queue, by default, as OpenAI's clients wait. */
export const REQUEST_SECONDS = 600;

/** Seconds that answers have to end after a signal, by default. */
export const DRAIN_SECONDS = 30;

/** Seconds after which a client is asked to try a full server again, at most, as the queue may be short again soon. */
export const MOST_RETRY_SECONDS = 60;

/** Seconds after which a client is asked to try another server, or this one once it has started again. */
export const RESTART_SECONDS = 5;

/** Bytes that wait for a slow reader, at most one text more; its tokens wait in the engine, where they are smaller. */
export const MOST_UNREAD_BYTES = 2 ** 18;

/** Milliseconds after which a reader that takes nothing, while so many bytes wait, counts as gone. */
export const STALLED_MS = 60_000;

/** UTF-16 units of an error's sentence, at most: errors of files quote what the files hold. */
export const MOST_ERROR_UNITS = 1000;

/** Requests of the playground that wait for their model, at most: each of them may load another one. */
export const MOST_WAITING_FOR_MODEL = 64;

/** Completions of the playground's model that run at once: fewer than in `serve`, as a training may need the memory. */
export const PLAYGROUND_SLOTS = { gpu: 32, cpu: 8 };

/** Likeliest tokens per place of a text that is inspected, at most: a page shows some ten. */
export const MOST_ALTERNATIVES = 50;

/** Tokens of a text that is inspected, at most: several contexts of most models. */
export const MOST_INSPECTED_IDS = 4096;

/** Tokens of a text whose attention is computed, at most: its matrix is quadratic in them. */
export const MOST_MATRIX_IDS = 1024;

/** Tokens of a text whose logit lens is computed, at most: every layer has logits of all of them. */
export const MOST_LENS_IDS = 512;

/** Tokens whose neighbours are sought, at most: each is compared with the whole vocabulary. */
export const MOST_NEIGHBOUR_IDS = 8;

/** Rows and columns of a small matrix of attention, at most, as there is one for each head. */
export const MOST_CELLS = 64;
