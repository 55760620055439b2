import type { Conversation, Message } from "../data/text/conversations.ts";
import { type ChatFormat, createChatFormat } from "../data/tokenizer/chat_format.ts";
import { refuseOthers } from "../files/option_names.ts";
import { UserError } from "../files/user_error.ts";
import { largestThat } from "../kernels/fit.ts";
import type { SamplerOptions } from "../kernels/sample/sample.ts";
import { createEngine, type Engine } from "./engine.ts";
import type { GenerateResult } from "./completion.ts";
import { MAX_NEW_TOKENS, randomSeed, resolveSampler } from "./request.ts";
import type { LoadedModel } from "./load.ts";

/** How a chat begins. */
export interface ChatOptions {
  /** The system message, an instruction that precedes the conversation; none by default. */
  system?: string | undefined;
  /** Seed of the first answer, random by default; each further answer has the next seed. */
  seed?: number | undefined;
  /** Tokens of an answer, at most; 256 by default. */
  maxNewTokens?: number | undefined;
  /** How the next token is drawn; `DEFAULT_SAMPLER` has the values that are absent. */
  sampler?: Partial<SamplerOptions> | undefined;
  /** The date for chat templates that ask for it. */
  now?: Date | undefined;
}

/** An answer that a model is about to give. */
export interface ChatAnswer {
  /** Turns at the beginning of the conversation that the model does not read, as they do not fit its context. */
  readonly omittedTurns: number;
  /** Seed of the sampler. */
  readonly seed: number;
  /** Tokens that the model reads. */
  readonly promptTokens: number;
  /**
   * The text, piece by piece, each of whole characters. As soon as it ends, question and answer are part of the
   * conversation; an answer that was stopped is part of it as far as it was drawn, or not at all if nothing was drawn.
   */
  readonly pieces: AsyncGenerator<string, GenerateResult>;
}

/** Share of the context that is kept for an answer, at most. */
const ANSWER_SHARE = 1 / 4;

/**
 * A conversation with a model.
 *
 * The model reads as many of the last turns as fit its context beside the answer, each of them whole, and always the
 * system message. A turn is a user's message with what answers it.
 *
 * The keys and values of the prompt stay on the device: the model reads what was said since the last question, or all of
 * it if turns fall out. The weights must not change meanwhile.
 */
export class Chat implements AsyncDisposable {
  /** How the next token is drawn. */
  sampler: SamplerOptions;
  /** Tokens of an answer, at most; fewer if the context is full. */
  maxNewTokens: number;
  /** Seed of the next answer. */
  seed: number;
  readonly #model: LoadedModel;
  readonly #format: ChatFormat;
  #messages: Conversation = [];
  #engine: Engine | undefined; // of one slot, whose prompts begin alike

  /** Begins a conversation; `createChat()` does so with the chat format of the model. */
  constructor(model: LoadedModel, format: ChatFormat, options: Omit<ChatOptions, "now"> = {}) {
    const { system, seed, maxNewTokens = MAX_NEW_TOKENS, sampler = {}, ...others } = options;
    refuseOthers("chat", "createChat()", others);
    this.#model = model;
    this.#format = format;
    this.sampler = resolveSampler(sampler);
    this.maxNewTokens = maxNewTokens;
    this.seed = seed ?? randomSeed();
    if (system !== undefined) this.setSystem(system);
  }

  /** Frees everything but the model; a later question allocates it again. */
  async close(): Promise<void> {
    const engine = this.#engine;
    this.#engine = undefined;
    await engine?.close();
  }

  /** As `close()`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** All messages, also those that the model no longer reads. */
  get messages(): Conversation {
    return this.#messages;
  }

  /** Replaces the conversation, its system message too. */
  set messages(messages: Conversation) {
    this.#messages = [...messages];
  }

  /** Tokens that the model reads and draws, at most. */
  get contextLength(): number {
    return this.#model.gpt.config.contextLength;
  }

  /** The system message, if there is one. */
  get system(): string | undefined {
    const [first] = this.#messages;
    return first?.role === "system" ? first.content : undefined;
  }

  /**
   * Replaces or removes the system message.
   *
   * @throws {ConversationError} if the chat template has none.
   */
  setSystem(content: string | undefined): void {
    const { head, turns } = partsOf(this.#messages), rest = [...head.slice(1), ...turns.flat()];
    if (content === undefined) {
      this.#messages = rest;
      return;
    }
    const system = { role: "system", content };
    this.#format.promptIds([system, { role: "user", content: "question" }]);
    this.#messages = [system, ...rest];
  }

  /**
   * Asks the model.
   *
   * @throws {UserError} if the message is too long for the context, or if the chat template refuses it.
   */
  ask(content: string, { signal }: { signal?: AbortSignal | undefined } = {}): ChatAnswer {
    return this.#answer([...this.#messages, { role: "user", content }], signal);
  }

  /**
   * Answers the last message of the user again, or for the first time. The new answer replaces what followed the message.
   *
   * @throws {UserError} if there is no such message.
   */
  regenerate({ signal }: { signal?: AbortSignal | undefined } = {}): ChatAnswer {
    const last = this.#lastQuestion();
    if (last < 0) throw new UserError("Cannot answer again as nothing was asked yet");
    return this.#answer(this.#messages.slice(0, last + 1), signal);
  }

  /** Removes the last turn; returns its first message, or undefined if there is none. */
  undo(): Message | undefined {
    const last = this.#lastQuestion(), question = this.#messages[last];
    if (question) this.#messages = this.#messages.slice(0, last);
    return question;
  }

  #lastQuestion(): number {
    return this.#messages.findLastIndex(({ role }) => role === "user");
  }

  #answer(messages: Conversation, signal: AbortSignal | undefined): ChatAnswer {
    const { ids, omittedTurns } = this.#prompt(messages), { seed } = this;
    this.seed = (seed + 1) % 2 ** 32;
    return {
      omittedTurns,
      seed,
      promptTokens: ids.length,
      pieces: this.#draw(messages, { promptIds: ids, seed, endIds: this.#format.endIds }, signal),
    };
  }

  /** The tokens of the last turns that fit the context beside an answer. */
  #prompt(messages: Conversation): { ids: readonly number[]; omittedTurns: number } {
    const { contextLength } = this, { head, turns } = partsOf(messages);
    const room = Math.min(this.maxNewTokens, Math.max(1, Math.floor(contextLength * ANSWER_SHARE)));
    const most = contextLength - room;
    const idsOf = (kept: number) =>
      this.#format.promptIds([...head, ...turns.slice(turns.length - kept).flat()]);
    const all = idsOf(turns.length);
    if (all.length <= most) return { ids: all, omittedTurns: 0 };
    const kept = largestThat((count) => idsOf(count).length <= most, turns.length - 1);
    if (kept > 0) return { ids: idsOf(kept), omittedTurns: turns.length - kept };
    throw new UserError(
      `Cannot answer as the message${head.length > 0 ? " and the system message" : ""} must have ` +
        `at most ${most} tokens, so that an answer fits the context of ${contextLength}: ` +
        `current number is ${idsOf(1).length}, with those of the chat template`,
    );
  }

  async *#draw(
    question: Conversation,
    request: { promptIds: readonly number[]; seed: number; endIds: readonly number[] },
    signal: AbortSignal | undefined,
  ): AsyncGenerator<string, GenerateResult> {
    const { sampler } = this, rest = this.contextLength - request.promptIds.length;
    const maxNewTokens = Math.min(this.maxNewTokens, rest);
    let content = "", isWhole = false;
    try {
      this.#engine ??= createEngine(this.#model, { slots: 1, maxTokens: this.contextLength });
      const seed = request.seed % 2 ** 32;
      const options = { ...request, seed, maxNewTokens, sampler, signal };
      for await (const { text, result } of this.#engine.submit(options)) {
        content += text;
        isWhole = result !== undefined && result.reason !== "aborted";
        if (text !== "") yield text;
        if (result) return result;
      }
      throw new Error("the engine ended without a result");
    } finally {
      if (isWhole || content !== "") this.#messages = [...question, { role: "assistant", content }];
    }
  }
}

/** The messages of the system at the beginning of a conversation, and its turns. */
function partsOf(messages: Conversation): { head: Message[]; turns: Message[][] } {
  const first = messages.findIndex(({ role }) => role !== "system");
  const begin = first < 0 ? messages.length : first;
  const turns: Message[][] = [];
  for (const message of messages.slice(begin)) {
    if (message.role === "user" || turns.length === 0) turns.push([]);
    turns.at(-1)!.push(message);
  }
  return { head: messages.slice(0, begin), turns };
}

/**
 * Begins a conversation with a model.
 *
 * @throws {UserError} if an option of the sampler is out of range, or if the chat template is not Jinja or has no system
 * message. A seed or a number of tokens that is out of range is a {RangeError} of the answer's pieces.
 *
 * @example Ask two questions
 * ```ts
 * import { createChat, loadModel, openDevice } from "../mod.ts";
 *
 * await using chat = await createChat(await loadModel(await openDevice(), { run: "runs/default" }));
 * for (const question of ["Who is Tim?", "Where does he live?"]) {
 *   for await (const piece of chat.ask(question).pieces) console.log(piece);
 * }
 * console.log(chat.messages.length); // 4
 * ```
 */
export async function createChat(
  model: LoadedModel,
  { now, ...options }: ChatOptions = {},
): Promise<Chat> {
  return new Chat(model, await createChatFormat(model.tokenizer, { now }), options);
}
