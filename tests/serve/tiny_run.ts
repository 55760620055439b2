import { join } from "node:path";
import { createPlayground, type Playground } from "../../serve/playground.ts";
import type { CurrentModelOptions } from "../../serve/current_model.ts";
import { train } from "../../train/train.ts";
import { changeFields, directory, readFields } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";

/** Positions of the model of `tinyRun()`. */
export const CONTEXT = 16;

/** The directory of a run of six steps with checkpoints after 2, 4 and 6, made when it is first needed. */
export const tinyRun: () => Promise<string> = once(async () => {
  const out = join(directory, "tiny");
  const texts = Array.from({ length: 40 }, (_, i) => `One cat and ${i} dogs met in the park.`);
  const options = {
    preset: "nano",
    width: 16,
    contextLength: CONTEXT,
    batchSize: 2,
    steps: 6,
    warmupSteps: 1,
    saveEvery: 2,
    sampleEvery: 0,
    // its texts do not end at once, and change from checkpoint to checkpoint
    arch: "gpt2",
    optimizer: "adamw",
    documents: "joined",
    learningRate: 0.01,
    minLearningRate: 0.001,
    vocabulary: "compact",
    tune: "off",
    precision: "f32",
  } as const;
  for await (const _ of train({ ...options, device, texts, out }));
  return out;
});

/** A chat template whose texts fit the context of `tinyRun()`. */
export const TEMPLATE = "{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}" +
  "{% if add_generation_prompt %}a{% endif %}";

/** The directory of a run named `chat`, whose one checkpoint is the last of `tinyRun()`, with that chat template. */
export const chatRun: () => Promise<string> = once(async () => {
  const out = join(directory, "chat"), from = join(await tinyRun(), "checkpoints", "000006");
  const checkpoint = join(out, "checkpoints", "000006");
  Deno.mkdirSync(checkpoint, { recursive: true });
  for (const { name } of Deno.readDirSync(from)) {
    Deno.copyFileSync(join(from, name), join(checkpoint, name));
  }
  const name = "tokenizer_config.json", path = join(checkpoint, name);
  const config = { ...JSON.parse(Deno.readTextFileSync(path)), chat_template: TEMPLATE };
  const bytes = new TextEncoder().encode(JSON.stringify(config));
  Deno.writeFileSync(path, bytes);
  const sha256 = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
  const { files } = readFields(checkpoint);
  changeFields(checkpoint, {
    files: { ...files as object, [name]: { bytes: bytes.length, sha256 } },
  });
  return out;
});

/** A playground whose only run is `tinyRun()`, named `tiny`, on the device of the tests. */
export function open(options: Partial<CurrentModelOptions> = {}) {
  const playground = createPlayground({
    findRun: (name) => name === "tiny" ? join(directory, "tiny") : undefined,
    open: () => Promise.resolve({ ...device, destroy() {} }),
    ...options,
  });
  return { ...playground, [Symbol.asyncDispose]: () => playground.close() };
}

/** A request with a body of JSON. */
export function request(body: unknown, { path = "/v1/completions", ...init }: RequestInit & {
  path?: string;
} = {}): Request {
  return new Request(`http://127.0.0.1${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...init,
  });
}

/** The status and the JSON that a playground answers. */
export async function ask(
  { handle }: Playground,
  body: unknown,
  init?: Parameters<typeof request>[1],
) {
  const response = (await handle(request(body, init)))!;
  return { status: response.status, ...await response.json() };
}
