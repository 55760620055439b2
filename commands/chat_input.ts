import { createInterface, type Interface } from "node:readline";
import { PassThrough, Writable } from "node:stream";
import { UserError } from "../files/user_error.ts";
import type { Terminal } from "./command.ts";

/**
 * Messages that are typed, pasted or piped into a chat.
 *
 * @module
 */

/** What comes from the keyboard or the pipe. */
export type Input =
  /** A line; `continues` if more lines were pasted with it. */
  | { readonly kind: "line"; readonly text: string; readonly continues?: boolean }
  /** Ctrl-C; `isEmpty` if nothing was typed in the line. */
  | { readonly kind: "interrupt"; readonly isEmpty: boolean }
  | { readonly kind: "end" };

/** Where lines come from. */
export interface LineSource extends Disposable {
  /** The next line, for which a terminal shows a prompt. */
  next(prompt: string): Promise<Input>;
  /** Ends the wait for a line with an interrupt. */
  interrupt(): void;
}

/** A message of one line or several. */
export interface TypedMessage {
  readonly text: string;
  /** Whether it is one line that was typed, which may be a command. */
  readonly isTypedLine: boolean;
}

/** The mark before and after a message of several lines, as in ollama and Python. */
const QUOTES = '"""';

/** Prompts for the first line of a message and for further ones. */
const PROMPT = "> ", MORE = "... ";

/** UTF-16 units of a message, at most. */
const LONGEST_MESSAGE = 2 ** 20;

/**
 * Reads a message: a line, several that end with a backslash but for the last, or lines between triple quotes. Blank
 * messages are skipped.
 *
 * @returns undefined at the end, and after an interrupt before anything was typed.
 * @throws {UserError} if the message is too long.
 */
export async function readMessage(source: LineSource): Promise<TypedMessage | undefined> {
  let parts: string[] = [], units = 0, isQuoted = false, isTypedLine = true;
  const message = () => ({ text: parts.join("\n"), isTypedLine });
  const begin = () => [parts, units, isQuoted, isTypedLine] = [[], 0, false, true];
  for (;;) {
    const isFirst: boolean = parts.length === 0 && !isQuoted;
    const input = await source.next(isFirst ? PROMPT : MORE);
    if (input.kind === "interrupt") {
      if (isFirst && input.isEmpty) return undefined;
      begin();
      continue;
    }
    if (input.kind === "end") return message().text.trim() === "" ? undefined : message();
    let { text } = input;
    const opens: boolean = isFirst && text.trimStart().startsWith(QUOTES);
    if (opens) text = text.trimStart().slice(QUOTES.length);
    isQuoted ||= opens;
    const closes = isQuoted && text.trimEnd().endsWith(QUOTES);
    if (closes) text = text.trimEnd().slice(0, -QUOTES.length);
    const isContinued = !isQuoted && !input.continues && text.endsWith("\\");
    if (isContinued) text = text.slice(0, -1);
    isTypedLine &&= isFirst && !isQuoted;
    if (!(text === "" && (opens || closes))) parts.push(text);
    units += text.length + 1;
    if (units > LONGEST_MESSAGE) throw tooLong();
    if (isQuoted ? !closes : isContinued || input.continues) continue;
    if (message().text.trim() !== "") return message();
    begin();
  }
}

function tooLong(): UserError {
  return new UserError(
    `Cannot read a message as it must have at most ${LONGEST_MESSAGE} characters`,
  );
}

/** Lines of a pipe, a file, or a terminal that edits lines itself. */
export class PlainLines implements LineSource {
  readonly #lines: AsyncGenerator<string, void>;
  readonly #prompts: ((prompt: string) => void) | undefined;
  #next: Promise<Input> | undefined; // a read that an interrupt has left behind
  #interrupted = Promise.withResolvers<Input>();

  /** Lines of a stream; prompts are written if there is a function for them. */
  constructor(bytes: AsyncIterable<Uint8Array>, prompts?: (prompt: string) => void) {
    this.#lines = linesOf(bytes);
    this.#prompts = prompts;
  }

  async next(prompt: string): Promise<Input> {
    this.#prompts?.(prompt);
    this.#interrupted = Promise.withResolvers();
    this.#next ??= this.#lines.next().then(({ done, value }) =>
      done ? { kind: "end" } : { kind: "line", text: value }
    );
    const input = await Promise.race([this.#next, this.#interrupted.promise]);
    if (input.kind !== "line") this.#prompts?.("\n");
    if (input.kind !== "interrupt") this.#next = undefined;
    return input;
  }

  interrupt(): void {
    this.#interrupted.resolve({ kind: "interrupt", isEmpty: true });
  }

  [Symbol.dispose](): void {}
}

/** The lines of a stream of UTF-8, each as soon as it is whole. */
async function* linesOf(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decoded = (chunk?: Uint8Array) => {
    try {
      return chunk ? decoder.decode(chunk, { stream: true }) : decoder.decode();
    } catch {
      throw new UserError("Cannot read messages on standard input as they must be UTF-8");
    }
  };
  let rest = "";
  for await (const chunk of bytes) {
    const lines = (rest + decoded(chunk)).split("\n");
    rest = lines.pop()!;
    if (rest.length > LONGEST_MESSAGE) throw tooLong();
    yield* lines.map(withoutReturn);
  }
  rest += decoded();
  if (rest !== "") yield withoutReturn(rest);
}

function withoutReturn(line: string): string {
  return line.endsWith("\r") ? line.slice(0, -1) : line;
}

/** Turns the marks around pasted text on and off, and the marks. */
const MARK_PASTES = "\x1b[?2004h", LEAVE_PASTES = "\x1b[?2004l";
const PASTE_BEGIN = "\x1b[200~", PASTE_END = "\x1b[201~";

const CTRL_C = "\x03";

/** Control characters except tab, which pasted text must not have: they would be keys. */
const KEYS = /(?!\t)\p{Cc}/gu;

/** Lines that are edited on a terminal, with a history. */
export class LineEditor implements LineSource {
  readonly #terminal: Terminal;
  readonly #keys = new PassThrough();
  readonly #editor: Interface;
  readonly #output: Writable;
  #typed = ""; // that the editor has not received yet
  #isPasting = false;
  #isEnded = false;
  /** The line that `next()` waits for; `continues` is set with its end: whether more lines were pasted with it. */
  #line: { resolve(input: Input): void; continues?: boolean } | undefined;

  /**
   * An editor of what is typed in a terminal.
   *
   * @param typed the bytes that the terminal sends.
   * @param onInterrupt is called for a Ctrl-C among them, which Windows sends in place of a signal.
   */
  constructor(
    typed: AsyncIterable<Uint8Array>,
    terminal: Terminal,
    { onInterrupt = () => this.interrupt() }: { onInterrupt?: () => void } = {},
  ) {
    this.#terminal = terminal;
    this.#output = new Writable({
      decodeStrings: false,
      write: (text, _encoding, done) => {
        terminal.write(String(text));
        done();
      },
    });
    Object.defineProperty(this.#output, "columns", { get: () => terminal.size()?.columns ?? 80 });
    this.#editor = createInterface({ input: this.#keys, output: this.#output, terminal: true });
    this.#editor.on("line", (text) => {
      const continues = this.#line?.continues ?? false;
      this.#take({ kind: "line", text, continues });
    });
    this.#editor.on("close", () => this.#end());
    terminal.write(MARK_PASTES);
    this.#read(typed, onInterrupt).catch(() => this.#end()); // the terminal is gone
  }

  next(prompt: string): Promise<Input> {
    if (this.#isEnded) return Promise.resolve({ kind: "end" });
    const { promise, resolve } = Promise.withResolvers<Input>();
    this.#line = { resolve };
    this.#editor.setPrompt(prompt);
    this.#editor.prompt();
    this.#feed();
    return promise;
  }

  interrupt(): void {
    const isEmpty = this.#editor.line === "";
    this.#typed = "";
    this.#isPasting = false;
    this.#editor.write(null, { ctrl: true, name: "e" });
    this.#editor.write(null, { ctrl: true, name: "u" });
    this.#terminal.write("\n");
    this.#take({ kind: "interrupt", isEmpty });
  }

  /** Adapts the line to a terminal that has another size, or that another program has used. */
  redraw(): void {
    this.#output.emit("resize");
  }

  [Symbol.dispose](): void {
    this.#editor.close();
    this.#terminal.write(LEAVE_PASTES);
  }

  #take(input: Input): void {
    this.#line?.resolve(input);
    this.#line = undefined;
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    if (this.#line) this.#terminal.write("\n");
    this.#take({ kind: "end" });
  }

  async #read(typed: AsyncIterable<Uint8Array>, onInterrupt: () => void): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of typed) {
      this.#typed += decoder.decode(bytes, { stream: true }).replaceAll("\r\n", "\r");
      if (this.#typed.endsWith(CTRL_C)) { // pasted text ends with its mark
        this.#typed = "";
        onInterrupt();
      }
      this.#feed();
    }
    this.#end();
  }

  /** Gives the editor what was typed, up to the end of the line that is waited for. */
  #feed(): void {
    while (this.#line && this.#line.continues === undefined && this.#typed !== "") {
      const mark = [PASTE_BEGIN, PASTE_END].find((mark) => this.#typed.startsWith(mark));
      if (mark !== undefined) {
        this.#isPasting = mark === PASTE_BEGIN;
        this.#typed = this.#typed.slice(mark.length);
        continue;
      }
      if (PASTE_BEGIN.startsWith(this.#typed) || PASTE_END.startsWith(this.#typed)) return;
      const part = firstPart(this.#typed);
      this.#typed = this.#typed.slice(part.length);
      if (isLineEnd(part)) {
        this.#line.continues = this.#isPasting;
        this.#keys.write("\r");
      } else if (this.#isPasting) {
        this.#editor.write(part.replace(KEYS, "")); // at once, as one key after the other takes quadratic time
      } else {
        this.#keys.write(part);
      }
    }
  }
}

/** An end of a line, the beginning of a key's sequence or of a mark, or what precedes these. */
function firstPart(typed: string): string {
  const ends = ["\r", "\n", "\x1b"].map((end) => typed.indexOf(end)).filter((at) => at >= 0);
  return typed.slice(0, Math.max(1, Math.min(typed.length, ...ends)));
}

function isLineEnd(part: string): boolean {
  return part === "\r" || part === "\n";
}
