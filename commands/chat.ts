import { taskCommand } from "../files/command_line.ts";
import { environmentVariable } from "../files/environment.ts";
import { UserError } from "../files/user_error.ts";
import { type Chat, type ChatAnswer, createChat } from "../generate/chat.ts";
import type { GenerateResult } from "../generate/completion.ts";
import { loadSource } from "../generate/load.ts";
import { MAX_NEW_TOKENS } from "../generate/request.ts";
import type { ModelSource } from "../generate/source.ts";
import { validateSampler } from "../kernels/sample/sample.ts";
import { ChatCommands } from "./chat_commands.ts";
import { LineEditor, type LineSource, PlainLines, readMessage } from "./chat_input.ts";
import {
  command,
  output,
  reportMistake,
  runCommand,
  status,
  statusColumns,
  stderrTerminal,
  wholeNumber,
} from "./command.ts";
import { openGpu } from "./gpu.ts";
import {
  checkRoom,
  findNamedModel,
  OWN_RUN,
  quantizeOption,
  withModelOptions,
} from "./named_model.ts";
import { giveBack, HUB } from "./permissions.ts";
import { samplerOf, withSamplerOptions } from "./sampler_options.ts";
import { EXIT_CODES, REPEATED_MS } from "./signals.ts";

/** `chat`: talks with a trained model. */
const program = withSamplerOptions(
  withModelOptions(command("chat", "Talk with a trained model; each line of a pipe is a message."))
    .addOption(quantizeOption())
    .optionsGroup("Conversation:")
    .option("--system <text>", "an instruction that precedes the conversation")
    .option("--max-new-tokens <n>", "tokens of an answer, at most", wholeNumber(1), MAX_NEW_TOKENS),
)
  .option(
    "--seed <n>",
    "seed of the first answer; each further one has the next (default: random)",
    wholeNumber(),
  )
  .optionsGroup("Output:")
  .option("--json", "one JSON object per answer instead of text")
  .showHelpAfterError("(messages are typed once it runs, or piped; --help lists all options)")
  .action((options) => runCommand(() => main(options)));

/** The options that were typed, and defaults. */
type ChatCommandOptions = ReturnType<typeof program.opts>;

async function main(options: ChatCommandOptions): Promise<number> {
  const sampler = samplerOf(options), { maxNewTokens, system, seed, quantize } = options;
  validateSampler(sampler);
  // before the device is opened, as a wrong name is the likeliest mistake
  const source = await findNamedModel(options);
  giveBack(...HUB);
  const device = await openGpu(options);
  const { contextLength } = source.config;
  checkRoom(device, source, {
    ...{ quantize, sampler, completions: 1 },
    ...{ promptTokens: 1, maxNewTokens: contextLength - 1 }, // as long as a conversation may become
  });
  const model = loadSource(device, source, { quantize });
  const chat = await createChat(model, { system, seed, sampler, maxNewTokens, now: new Date() });
  const isBase = source.tokenizer.chatTemplate === undefined;
  if (isBase) status(adviceOnBase(source, options));
  return await talk(chat, options);
}

/** What to do with a model that cannot answer, each command on its line. */
function adviceOnBase(source: ModelSource, options: ChatCommandOptions): string {
  const { run, checkpoint, model: other } = options;
  const model = other ?? (checkpoint === undefined ? run : source.checkpoint!);
  const train = (...words: string[]) => taskCommand("train", ...words);
  return `the model was trained on no conversations, so it continues texts rather than answers
to train one that answers: ${train("--data", "conversations", "--out", "runs/chat")}
to train this one on yours: ${
    train("--init-from", model, "--data", "chat.jsonl", "--out", OWN_RUN)
  }`;
}

/** Reads messages and prints answers until there are no more. */
async function talk(chat: Chat, { json }: ChatCommandOptions): Promise<number> {
  const isTyped = Deno.stdin.isTerminal();
  const commands = new ChatCommands(chat, () => statusColumns() ?? 80);
  const printer = new Printer(chat, json === true);
  let answering: AbortController | undefined;
  const onInterrupt = () => {
    if (!answering) return lines.interrupt();
    if (answering.signal.aborted) {
      lines[Symbol.dispose]();
      Deno.exit(EXIT_CODES.SIGINT);
    }
    answering.abort();
  };
  using lines = isTyped ? typedLines(onInterrupt) : new PlainLines(Deno.stdin.readable);
  if (isTyped) status("/help lists the commands, Ctrl-D ends");
  for (;;) {
    try {
      const message = await readMessage(lines);
      if (!message) return 0;
      answering = new AbortController();
      const { signal } = answering, { text } = message;
      const effect = isTyped && message.isTypedLine && text.startsWith("/")
        ? commands.execute(text, { signal })
        : { answer: chat.ask(text, { signal }) };
      if (effect === "end") return 0;
      if ("say" in effect) status(effect.say);
      else if (!await printer.print(effect.answer)) return 0;
    } catch (error) {
      if (!isTyped || !(error instanceof UserError)) throw error;
      reportMistake(error);
    } finally {
      answering = undefined;
    }
  }
}

/** Lines from the terminal, which are edited unless it is a dumb one, and signals. */
function typedLines(onInterrupt: () => void): LineSource {
  const terminal = {
    write: stderrTerminal().write,
    size: () => ({ columns: statusColumns() ?? 80, rows: 24 }),
  };
  let lastMs = -Infinity;
  Deno.addSignalListener("SIGINT", () => {
    const now = performance.now();
    if (now - lastMs > REPEATED_MS) onInterrupt();
    lastMs = now;
  });
  const isDumb = !Deno.stderr.isTerminal() || environmentVariable("TERM") === "dumb";
  if (isDumb) return new PlainLines(Deno.stdin.readable, terminal.write);
  const isWindows = Deno.build.os === "windows";
  const takeKeys = () => Deno.stdin.setRaw(true, { cbreak: !isWindows }); // Ctrl-C remains a signal
  takeKeys();
  const editor = new LineEditor(Deno.stdin.readable, terminal, { onInterrupt });
  const end = () => {
    editor[Symbol.dispose]();
    Deno.stdin.setRaw(false);
  };
  if (!isWindows) {
    for (const signal of ["SIGTERM", "SIGHUP"] as const) {
      Deno.addSignalListener(signal, () => {
        end();
        Deno.exit(EXIT_CODES[signal]);
      });
    }
    Deno.addSignalListener("SIGWINCH", () => editor.redraw());
    Deno.addSignalListener("SIGCONT", () => {
      takeKeys();
      editor.redraw();
    });
  }
  return {
    next: (prompt) => editor.next(prompt),
    interrupt: () => editor.interrupt(),
    [Symbol.dispose]: end,
  };
}

/** Prints answers while they are drawn. */
class Printer {
  readonly #chat: Chat;
  readonly #isJson: boolean;
  #omittedTurns = 0; // that were reported

  constructor(chat: Chat, isJson: boolean) {
    this.#chat = chat;
    this.#isJson = isJson;
  }

  /** Prints an answer; returns false if nobody reads it. */
  async print(answer: ChatAnswer): Promise<boolean> {
    const { omittedTurns, promptTokens, seed, pieces } = answer;
    if (omittedTurns !== this.#omittedTurns) this.#reportOmitted(omittedTurns);
    let content = "", result: GenerateResult | undefined;
    while (!result) {
      const { done, value } = await pieces.next();
      if (done) result = value;
      else if (!this.#isJson && !output(value)) return false;
      else content += value;
    }
    if (this.#isJson) {
      const fields = { role: "assistant", content, seed, promptTokens, omittedTurns, ...result };
      return output(`${JSON.stringify(fields)}\n`);
    }
    const isRead = content.endsWith("\n") || output("\n");
    this.#reportEnd(result, promptTokens);
    return isRead;
  }

  #reportOmitted(turns: number): void {
    this.#omittedTurns = turns;
    if (turns === 0) return;
    const beginning = turns === 1
      ? "the first turn no longer fits"
      : `the first ${turns} turns no longer fit`;
    status(`${beginning} the context of ${this.#chat.contextLength} tokens`);
  }

  #reportEnd({ reason, tokens }: GenerateResult, promptTokens: number): void {
    const { maxNewTokens, contextLength } = this.#chat;
    if (reason !== "length") {
      if (tokens <= 1 && reason === "end-of-text") status("(the answer is empty)");
    } else if (promptTokens + tokens < contextLength) {
      status(`(the answer ends after --max-new-tokens ${maxNewTokens})`);
    } else {
      status(`(the answer ends where the context of ${contextLength} tokens does)`);
    }
  }
}

await program.parseAsync();
