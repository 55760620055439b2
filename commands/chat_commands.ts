import { existsSync } from "node:fs";
import { resolve } from "node:path";
import wrapAnsi from "wrap-ansi";
import { readConversations, saveConversations } from "../data/text/conversation_file.ts";
import { flagOf } from "../files/command_line.ts";
import { checkFilePath } from "../files/disk.ts";
import { printable, quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import type { Chat, ChatAnswer } from "../generate/chat.ts";
import { type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";
import { permissionError } from "./permissions.ts";

/** What a command of a chat does: it says something, asks the model again, or ends the program. */
export type ChatEffect = { readonly say: string } | { readonly answer: ChatAnswer } | "end";

/** How an answer is drawn. */
interface AnswerOptions {
  /** Ends it early when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** A command of a chat. */
interface ChatCommand {
  /** What follows its name; in brackets if it may be absent. */
  readonly argument?: string;
  readonly help: string;
  run(commands: ChatCommands, argument: string, how: AnswerOptions): ChatEffect;
}

/** The commands by name, in the order of the help. */
const COMMANDS: Readonly<Record<string, ChatCommand>> = {
  set: {
    argument: "[OPTION VALUE]",
    help: "set top-k, temperature, …",
    run: (commands, argument) => ({ say: commands.set(argument) }),
  },
  seed: {
    argument: "[N]",
    help: "seed of the next answer",
    run: (commands, argument) => ({ say: commands.seed(argument) }),
  },
  system: {
    argument: "[TEXT]",
    help: 'set the system message; "" removes it',
    run: (commands, argument) => ({ say: commands.system(argument) }),
  },
  regenerate: {
    help: "answer again, with another seed",
    run: ({ chat }, _, how) => ({ answer: chat.regenerate(how) }),
  },
  undo: { help: "take back the last turn", run: ({ chat }) => ({ say: undone(chat) }) },
  clear: { help: "begin a new conversation", run: ({ chat }) => ({ say: cleared(chat) }) },
  save: {
    argument: "FILE",
    help: "save the conversation as JSONL",
    run: (commands, argument) => ({ say: commands.save(argument) }),
  },
  load: {
    argument: "FILE",
    help: "resume a conversation of a JSONL file",
    run: (commands, argument) => ({ say: commands.load(argument) }),
  },
  help: { help: "list the commands", run: ({ columns }) => ({ say: helpText(columns()) }) },
  exit: { help: "end, as Ctrl-D does", run: () => "end" },
};

/** Keys and conventions that the help explains. */
const HELP_ON_INPUT =
  'A message of several lines stands between """ and """, or each of its lines but the last ends ' +
  "with \\; pasted lines are one message.\nCtrl-C stops an answer, and ends the program at an " +
  "empty prompt.\nA message that begins with / needs a blank before it.";

/** Executes the commands that are typed in a chat. */
export class ChatCommands {
  /** The conversation that they change. */
  readonly chat: Chat;
  /** Columns of the terminal. */
  readonly columns: () => number;
  readonly #saved: Set<string> = new Set(); // files that may be replaced

  /** Commands for a conversation. */
  constructor(chat: Chat, columns: () => number = () => 80) {
    this.chat = chat;
    this.columns = columns;
  }

  /**
   * Executes a line that begins with `/`.
   *
   * @throws {UserError} if it is no command, or if the command fails; then nothing has changed.
   */
  execute(line: string, how: AnswerOptions = {}): ChatEffect {
    const [, name = "", argument = ""] = /^\/(\S*)\s*([^]*?)\s*$/.exec(line) ?? [];
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
    if (!command) {
      throw new UserError(
        `Cannot execute ${printable(`/${name}`, 40)} as there is no such command`,
        {
          hint: "/help lists the commands; a message that begins with / has a blank before it",
        },
      );
    }
    const isMissing = argument === "" && command.argument && !command.argument.startsWith("[");
    if (isMissing || argument !== "" && !command.argument) {
      throw new UserError(
        `Cannot execute /${name} as it must have ${isMissing ? "an" : "no"} argument: ` +
          `${usageOf(name, command)}`,
      );
    }
    try {
      return command.run(this, argument, how);
    } catch (error) {
      throw error instanceof Deno.errors.NotCapable ? permissionError(error) : error; // such as /save /dev/full
    }
  }

  /** Sets an option of the sampler or the length of answers, or lists them all. */
  set(argument: string): string {
    const { sampler, maxNewTokens } = this.chat;
    const values = Object.entries({ ...sampler, maxNewTokens })
      .map(([name, value]) => ({ name, option: flagOf(name).slice(2), value }));
    if (argument === "") {
      return values.map(({ option, value }) => `${option.padEnd(20)}${value}`).join("\n");
    }
    const [, option = "", text = ""] = /^(?:--)?([^\s=]+)[\s=]*(\S*)$/.exec(argument) ?? [];
    const known = values.find((row) => row.option === option);
    if (!known) {
      throw new UserError(
        `Cannot set ${quoted(option || argument, 40)} as it must be one of the options ` +
          values.map(({ option }) => option).join(", "),
      );
    }
    const value = Number(text);
    if (text === "" || !Number.isFinite(value)) {
      throw new UserError(
        `Cannot set ${option} as its value must be a number: current value is ${quoted(text, 40)}`,
      );
    }
    if (known.name === "maxNewTokens") this.#setMaxNewTokens(value);
    else {
      const changed: SamplerOptions = { ...sampler, [known.name]: value };
      validateSampler(changed);
      this.chat.sampler = changed;
    }
    return `${option} ${value}`;
  }

  #setMaxNewTokens(value: number): void {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new UserError(
        `Cannot set max-new-tokens as it must be a whole number of at least 1: current value is ${value}`,
      );
    }
    this.chat.maxNewTokens = value;
  }

  /** Sets or says the seed of the next answer. */
  seed(argument: string): string {
    if (argument !== "") {
      const seed = Number(argument);
      if (!Number.isSafeInteger(seed) || seed < 0) {
        throw new UserError(
          "Cannot set the seed as it must be a whole number of at least 0: " +
            `current value is ${quoted(argument, 40)}`,
        );
      }
      this.chat.seed = seed;
    }
    return `the next answer has seed ${this.chat.seed}`;
  }

  /** Sets, removes or says the system message. */
  system(argument: string): string {
    const { chat } = this;
    if (argument === "") return chat.system ?? "there is no system message";
    const isEmpty = /^(""|'')$/.test(argument);
    chat.setSystem(isEmpty ? undefined : argument);
    return isEmpty ? "the system message is removed" : "the system message is set";
  }

  /** Saves the conversation in a new file, or in one that this chat has saved. */
  save(path: string): string {
    const { messages } = this.chat, place = resolve(path);
    if (messages.length === 0) {
      throw new UserError("Cannot save the conversation as it has no messages yet");
    }
    checkFilePath(path, "/save");
    if (existsSync(path) && !this.#saved.has(place)) {
      throw new UserError(
        `Cannot save the conversation in ${path} as it must be a new file, or one that this chat has saved`,
      );
    }
    saveConversations(path, [messages]);
    this.#saved.add(place);
    return `saved ${counted(messages.length, "message")} in ${path}`;
  }

  /** Replaces the conversation by the last one of a file. */
  load(path: string): string {
    const conversations = readConversations(path), messages = conversations.at(-1)!;
    this.chat.messages = messages;
    const { length } = conversations, last = messages.at(-1)!;
    return `loaded ${counted(messages.length, "message")} from ${path}` +
      (length > 1 ? `, the last of its ${length} conversations` : "") +
      (last.role === "user" ? "; /regenerate answers the last one" : "");
  }
}

function undone(chat: Chat): string {
  const question = chat.undo();
  if (!question) throw new UserError("Cannot undo as nothing was asked yet");
  return `took back ${quoted(question.content, 40)}`;
}

function cleared(chat: Chat): string {
  chat.messages = chat.messages.filter(({ role }, i) => i === 0 && role === "system");
  return "a new conversation" + (chat.system === undefined ? "" : "; the system message stays");
}

function usageOf(name: string, { argument }: ChatCommand): string {
  return `/${name}${argument === undefined ? "" : ` ${argument}`}`;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** The help: a line per command, or two on a narrow terminal. */
function helpText(columns: number): string {
  const rows = Object.entries(COMMANDS).map(([name, command]) =>
    [usageOf(name, command), command.help] as const
  );
  const width = Math.max(...rows.map(([usage]) => usage.length)) + 2;
  const longest = Math.max(...rows.map(([, help]) => help.length));
  const lines = rows.map(([usage, help]) =>
    width + longest <= columns ? `${usage.padEnd(width)}${help}` : `${usage}\n  ${help}`
  );
  return [...lines, "", wrapAnsi(HELP_ON_INPUT, columns)].join("\n");
}
