import { existsSync } from "node:fs";
import { basename, dirname } from "node:path";
import { createChatFormat } from "../data/tokenizer/chat_format.ts";
import { environmentVariable } from "../files/environment.ts";
import { printable, quoted } from "../files/printable.ts";
import { byteCount, shortDuration } from "../files/units.ts";
import { UserError } from "../files/user_error.ts";
import { isUsersError } from "../files/disk.ts";
import { DEFAULT_SLOTS } from "../generate/engine.ts";
import { type LoadedModel, loadSource } from "../generate/load.ts";
import { MODEL_NAMES, type ModelSource } from "../generate/source.ts";
import type { Device } from "../kernels/device.ts";
import { misfitOf, shortageOf } from "../kernels/fit.ts";
import { type Api, createApi, type RequestRecord } from "../serve/api.ts";
import { ApiError, errorResponse } from "../serve/api_error.ts";
import { DRAIN_SECONDS, QUEUE, REQUEST_SECONDS, RESTART_SECONDS } from "../serve/limits.ts";
import { recordServedModel } from "../serve/served_model.ts";
import { TRAIN_OPTIONS } from "../train/options.ts";
import {
  command,
  listenForInterrupts,
  output,
  runCommand,
  status,
  warn,
  wholeNumber,
} from "./command.ts";
import { gpuOption, openGpu } from "./gpu.ts";
import { untilEnd } from "./http_server.ts";
import { findNamedModel, quantizeOption } from "./named_model.ts";
import { giveBack, HUB } from "./permissions.ts";

/** `serve`: answers requests over HTTP, in the shape of OpenAI's API. */
const program = command(
  "serve",
  "Answer requests over HTTP with trained models, in the shape of OpenAI's API.",
)
  .addOption(gpuOption())
  .optionsGroup("Models:")
  .option(
    "--run <runs...>",
    "runs, with @STEP or @best for another checkpoint than the newest; NAME=RUN gives a name " +
      "(default: runs/default)",
  )
  .option(
    "--model <names...>",
    `other models: ${Object.keys(MODEL_NAMES).slice(0, 2).join(", ")}, hf:OWNER/NAME, ` +
      "a directory of a model, adapters or a checkpoint, or a .gguf file",
  )
  .option("--base <model>", TRAIN_OPTIONS.base.help)
  .addOption(quantizeOption())
  .optionsGroup("Address:")
  .option(
    "--host <address>",
    "address to listen on; beyond this machine TOY_API_KEY is needed",
    "127.0.0.1",
  )
  .option("--port <n>", "port to listen on; 0: a free one", wholeNumber(0, 65535), 8000)
  .option("--allow-host <names...>", "names of this server beside localhost and IP addresses")
  .option("--cors <origins...>", "pages of these origins may use the API; '*': all pages")
  .optionsGroup("Limits:")
  .option(
    "--slots <n>",
    `completions of a model that run at once (default: ${DEFAULT_SLOTS.gpu}; ${DEFAULT_SLOTS.cpu} on a CPU)`,
    wholeNumber(1, 4096),
  )
  .option(
    "--queue <n>",
    "completions of a model that wait, at most",
    wholeNumber(0, 100_000),
    QUEUE,
  )
  .option(
    "--timeout <seconds>",
    "time that an answer may take",
    wholeNumber(1, 1_000_000),
    REQUEST_SECONDS,
  )
  .option(
    "--drain <seconds>",
    "time that answers have to end after Ctrl-C or SIGTERM",
    wholeNumber(0, 1_000_000),
    DRAIN_SECONDS,
  )
  .optionsGroup("Output:")
  .option("--log-prompts", "log prompts and completions, too")
  .action((options) => runCommand(() => main(options)));

/** The options that were typed, and defaults. */
type Options = ReturnType<typeof program.opts>;

/** Least characters of a key. */
const LEAST_KEY = 16;

/** A key that clients can send as part of a header: they encode other characters variously, and drop outer blanks. */
const KEY = /^[!-~]([ -~]*[!-~])?$/;

async function main(options: Options): Promise<number> {
  const { host, port, drain, timeout: requestSeconds, queue, allowHost = [], cors = [] } = options;
  const apiKey = keyFor(host);
  cors.forEach(checkOrigin);
  allowHost.forEach(checkHost);
  // before the models are loaded, as a port that is taken is a likely mistake
  let handle: Api["handle"] = notYet;
  const server = listen(host, port, (request) => handle(request));
  const ended = untilEnd(server);
  ended.catch(() => {}); // thrown below, also if it fails while the models are loaded
  const sources = await findModels(options);
  giveBack(...HUB, "write"); // the server listens already
  const device = await openGpu(options);
  await checkTemplates(sources);
  const { quantize, slots } = options;
  checkFit(device, sources, { slots, quantize });
  const models = Object.fromEntries(
    [...sources].map(([name, source]): [string, LoadedModel] => [
      name,
      loadSource(device, source, { quantize }),
    ]),
  );
  const api = createApi({
    models,
    apiKey,
    slots,
    queue,
    requestSeconds,
    hosts: [host, ...allowHost],
    origins: cors,
    keepsTexts: options.logPrompts ?? false,
    onEnd: (record) => log(record, options.logPrompts ?? false),
  });
  ({ handle } = api);
  for (const [name, { config }] of sources) {
    status(`model ${printable(name)}, with a context of ${config.contextLength} tokens`);
  }
  const interrupts = await listenForInterrupts(
    `no new requests; those that run have ${drain} s. A second signal ends at once.`,
  );
  output(`${addressOf(server.addr)}/v1\n`); // from here on a signal finds what it ends
  await Promise.race([aborted(interrupts.signal), lost(device), ended]);
  const isDrained = await Promise.race([api.drain().then(() => true), after(drain)]);
  await api.close();
  await Promise.race([server.shutdown(), after(LAST_SECONDS)]);
  return isDrained ? 0 : interrupts.exitCode;
}

/** Seconds in which the last bytes of answers are sent, on a busy machine too. */
const LAST_SECONDS = 10;

/** The key that requests must have. */
function keyFor(host: string): string | undefined {
  const apiKey = environmentVariable("TOY_API_KEY");
  const isLoopback = /^(127\.\d+\.\d+\.\d+|localhost|::1)$/i.test(host);
  if (apiKey === undefined && !isLoopback) {
    throw new UserError(`Cannot serve on ${host} as that needs a key, which requests must have`, {
      hint: "Put one into the environment: TOY_API_KEY=$(openssl rand -hex 32)",
    });
  }
  if (apiKey !== undefined && apiKey.length < LEAST_KEY) {
    throw new UserError(
      `Cannot serve as TOY_API_KEY must have ${LEAST_KEY} characters or more: it has ${apiKey.length}`,
    );
  }
  if (apiKey !== undefined && !KEY.test(apiKey)) {
    throw new UserError(
      "Cannot serve as TOY_API_KEY must have printable characters of ASCII alone, and no white space around them",
    );
  }
  return apiKey;
}

/** @throws {UserError} if a text is no origin of pages. */
function checkOrigin(origin: string): void {
  if (origin === "*" || URL.canParse(origin) && new URL(origin).origin === origin) return;
  throw new UserError(
    `Cannot serve as --cors must be an origin, such as http://localhost:3000, or *: ` +
      `current value is ${quoted(origin)}`,
  );
}

/** @throws {UserError} if a text is no name of a host. */
function checkHost(name: string): void {
  if (/^[\w.-]+$/.test(name)) return;
  throw new UserError(
    `Cannot serve as --allow-host must be a name without a port, such as box.lan: ` +
      `current value is ${quoted(name)}`,
  );
}

/** Listens on an address. */
function listen(
  hostname: string,
  port: number,
  handler: Api["handle"],
): Deno.HttpServer<Deno.NetAddr> {
  try {
    return Deno.serve({ hostname, port, onListen: () => {} }, handler);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    const reason = error instanceof Deno.errors.AddrInUse
      ? `another program uses port ${port}`
      : error instanceof Deno.errors.PermissionDenied
      ? `the system refuses port ${port}, since ports below 1024 need a privilege`
      : `it is no address of this machine: ${(error as Error).message}`;
    throw new UserError(`Cannot serve on ${printable(hostname)} as ${reason}`, {
      hint: "Choose another --port or --host",
    });
  }
}

function addressOf({ hostname, port }: Deno.NetAddr): string {
  return `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** The answer until the models are loaded. */
function notYet(): Promise<Response> {
  const sentence = "Cannot answer as the models are being loaded";
  return Promise.resolve(
    errorResponse(new ApiError(503, sentence, { retryAfterSeconds: RESTART_SECONDS })),
  );
}

/** Finds the models by the names that requests use. */
async function findModels({ run, model = [], base }: Options): Promise<Map<string, ModelSource>> {
  const runs = run ?? (model.length === 0 ? ["runs/default"] : []);
  const found = new Map<string, ModelSource>();
  const add = (name: string, source: ModelSource) => {
    if (found.has(name)) {
      throw new UserError(
        `Cannot serve as each model must have its own name: two are named ${quoted(name)}`,
        {
          hint: "Give one another name: NAME=RUN",
        },
      );
    }
    found.set(name, source);
  };
  for (const word of runs) {
    const { name, spec } = named(word);
    const [, run = spec, checkpoint = "latest"] = existsSync(spec)
      ? []
      : /^(.+)@(\d+|best)$/s.exec(spec) ?? [];
    const source = await findNamedModel({ run, checkpoint, base });
    const suffix = checkpoint === "latest" ? "" : `@${checkpoint}`;
    add(name ?? basename(run) + suffix, source);
  }
  for (const word of model) {
    const { name, spec } = named(word);
    add(name ?? nameOf(spec), await findNamedModel({ run: "", model: spec, base }));
  }
  return found;
}

/** `NAME=SPEC`, or a `spec` alone. */
function named(word: string): { name?: string; spec: string } {
  const [, name, spec = word] = existsSync(word) ? [] : /^([^=/\\]+)=(.+)$/s.exec(word) ?? [];
  return name === undefined ? { spec } : { name, spec };
}

/** The name of a model whose user gave it none. */
function nameOf(spec: string): string {
  if (spec.startsWith("hf:")) return spec.slice(3).replace(/@.*$/s, "");
  const [, step] = /[\\/]checkpoints[\\/](\d+)[\\/]?$/.exec(spec) ?? [];
  if (step !== undefined) return `${basename(dirname(dirname(spec)))}@${Number(step)}`;
  return basename(spec).replace(/\.gguf$/, "");
}

/** Warns of models whose chat template cannot be used: they complete texts, and refuse chats. */
async function checkTemplates(sources: Map<string, ModelSource>): Promise<void> {
  for (const { tokenizer } of sources.values()) {
    try {
      await createChatFormat(tokenizer);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      warn(error.sentence);
    }
  }
}

/** Makes sure that all models and their engines fit the device together. */
function checkFit(
  device: Device,
  sources: Map<string, ModelSource>,
  options: Parameters<typeof recordServedModel>[2],
): void {
  let needBytes = 0;
  const problem = misfitOf(device, (dry) => {
    for (const source of sources.values()) recordServedModel(dry, source, options);
    needBytes = dry.bytes;
  });
  if (problem) {
    const what = sources.size === 1 ? "the model as it" : `${sources.size} models as they`;
    throw new UserError(`Cannot serve ${what} must fit ${device.name} ${shortageOf(problem)}`, {
      hint: "Choose fewer --slots",
    });
  }
  status(`memory ${byteCount(needBytes)} on ${device.name}`);
}

/** Resolves when a signal aborts. */
function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
}

/** Throws once the device is lost. */
async function lost(device: Device): Promise<void> {
  const { message } = await device.gpu.lost;
  throw new UserError(`Cannot serve as the GPU was lost: ${printable(message)}`, {
    hint: "Start the server again",
  });
}

function after(seconds: number): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), 1000 * seconds));
}

/** Paths whose requests are logged only if they fail: programs ask for them every few seconds. */
const QUIET_PATHS = ["/health", "/metrics"];

/** UTF-16 units of a prompt or a completion in the log, at most. */
const LONGEST_TEXT = 10_000;

/** Logs a request that has ended. */
function log(record: RequestRecord, withTexts: boolean): void {
  const { id, method, path, model, promptTokens, completionTokens, firstPieceMs, error } = record;
  if (QUIET_PATHS.includes(path) && record.status === 200) return;
  const seconds = (ms: number) => shortDuration(ms / 1000);
  const reasons = [...Map.groupBy(record.reasons, (reason) => reason)].map(([reason, { length }]) =>
    length === 1 ? reason : `${length} ${reason}`
  );
  const words = [
    new Date().toISOString(),
    `${id} ${printable(method)} ${printable(path)} ${record.status}`,
    ...model === undefined
      ? []
      : [`${printable(model)} ${promptTokens}+${completionTokens} tokens`],
    seconds(record.elapsedMs!),
    ...firstPieceMs === undefined ? [] : [`first text ${seconds(firstPieceMs)}`],
    ...reasons.length > 0 ? [reasons.join(", ")] : [],
    ...error === undefined ? [] : [printable((error as Error).message)],
  ];
  status(words.join("  "));
  if (error !== undefined && !isUsersError(error)) {
    status(Deno.inspect(error, { colors: false }));
  }
  if (!withTexts || record.prompt === undefined) return;
  status(`${id} prompt ${quoted(record.prompt, LONGEST_TEXT)}`);
  for (const text of record.texts ?? []) status(`${id} completion ${quoted(text, LONGEST_TEXT)}`);
}

await program.parseAsync();
