import type { CompletionPiece, GenerateResult } from "../generate/completion.ts";

/** Status of a request whose client has left before the answer was complete, as nginx has it. */
export const CLIENT_LEFT = 499;

/** What a request was, and what became of it. */
export class RequestRecord {
  /** Identifies the request in the header `x-request-id` and in logs. */
  readonly id = `req-${crypto.getRandomValues(new Uint8Array(6)).toHex()}`;
  /** Its method. */
  readonly method: string;
  /** The path of its URL. */
  readonly path: string;
  /** Status of the response, or `CLIENT_LEFT`. */
  status = 0;
  /** Name of the model, if one was used. */
  model: string | undefined;
  /** The texts or messages of the request. */
  prompt: unknown;
  /** The completions, if they are kept. */
  readonly texts: string[] | undefined;
  /** Tokens of its prompts. */
  promptTokens = 0;
  /** Tokens that were drawn. */
  completionTokens = 0;
  /** Why its completions ended. */
  readonly reasons: GenerateResult["reason"][] = [];
  /** Milliseconds until the first piece of a completion. */
  firstPieceMs: number | undefined;
  /** Milliseconds until the answer was complete. */
  elapsedMs: number | undefined;
  /** Why it was not answered, or not wholly. */
  error: unknown;
  /** Resolves once the body of the response has ended, if that is sent while it is computed. */
  body: Promise<void> | undefined;
  readonly #since = performance.now();
  readonly #onEnd: (record: RequestRecord) => void;

  /** Starts the clock of the request. */
  constructor(
    { method, url }: Pick<Request, "method" | "url">,
    { onEnd = () => {}, keepsTexts = false }: {
      onEnd?: (record: RequestRecord) => void;
      keepsTexts?: boolean;
    } = {},
  ) {
    this.method = method;
    this.path = URL.parse(url)?.pathname ?? ""; // the header Host is part of the URL
    this.#onEnd = onEnd;
    this.texts = keepsTexts ? [] : undefined;
  }

  /** Notes a piece of a completion. */
  add({ index, text, result }: CompletionPiece & { index: number }): void {
    this.firstPieceMs ??= performance.now() - this.#since;
    if (this.texts) this.texts[index] = (this.texts[index] ?? "") + text;
    if (!result) return;
    this.completionTokens += result.tokens;
    this.reasons.push(result.reason);
  }

  /** Notes why the request is not answered, or not wholly. */
  fail(error: unknown): void {
    if (error instanceof DOMException && error.name === "AbortError") this.status = CLIENT_LEFT;
    else this.error ??= error;
  }

  /** Notes the status of the response, and its end: at once, or when its body has ended. */
  async answered(status: number): Promise<void> {
    this.status = status;
    if (this.body) await this.body;
    this.elapsedMs = performance.now() - this.#since;
    this.#onEnd(this);
  }
}
