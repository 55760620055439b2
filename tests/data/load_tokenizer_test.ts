import assert from "node:assert/strict";
import { join } from "node:path";
import { loadTokenizer } from "../../data/load_tokenizer.ts";
import { compactTokenizer, gpt2Tokenizer } from "../../data/tokenizer.ts";
import { HubServer, refuse } from "./hub_server.ts";

const full = await gpt2Tokenizer();
const compact = await compactTokenizer(full, full.encode("Once upon a time"));

/** A folder with these files. */
async function withFiles(
  files: Record<string, string>,
  use: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, text] of Object.entries(files)) {
      await Deno.writeTextFile(join(folder, name), text);
    }
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("loadTokenizer() knows GPT-2's by name", async () => {
  assert.equal((await loadTokenizer("gpt2")).hash, full.hash);
});

Deno.test("loadTokenizer() reads a file, or a folder that holds it", async () => {
  await withFiles({ "tokenizer.json": compact.json }, async (folder) => {
    assert.equal((await loadTokenizer(join(folder, "tokenizer.json"))).hash, compact.hash);
    assert.equal((await loadTokenizer(folder)).hash, compact.hash);
    const padded = await loadTokenizer(folder, { vocabularySize: 50_304 });
    assert.equal(padded.vocabularySize, 50_304);
  });
  await withFiles({ "mine.json": compact.json }, async (folder) => {
    assert.equal((await loadTokenizer(join(folder, "mine.json"))).hash, compact.hash);
  });
});

Deno.test("loadTokenizer() takes what ends a document from tokenizer_config.json", async () => {
  const file = JSON.parse(compact.json);
  file.model.vocab["<end>"] = compact.vocabularySize;
  const tokenizer = JSON.stringify(file);
  for (
    const [config, expected] of [
      ['{"eos_token":"<end>"}', "<end>"],
      ['{"eos_token":{"content":"<end>","lstrip":false}}', "<end>"],
      ['{"eos_token":null}', "<|endoftext|>"],
      ["{}", "<|endoftext|>"],
    ]
  ) {
    const files = { "tokenizer.json": tokenizer, "tokenizer_config.json": config! };
    await withFiles(files, async (folder) => {
      assert.equal((await loadTokenizer(folder)).endOfTextToken, expected);
      const told = await loadTokenizer(folder, { endOfText: "<|endoftext|>" });
      assert.equal(told.endOfTextToken, "<|endoftext|>");
    });
  }
});

Deno.test("loadTokenizer() says in a sentence what is wrong", async () => {
  const files = { "tokenizer.json": compact.json, "tokenizer_config.json": "{", "bad.json": "[]" };
  await withFiles(files, async (folder) => {
    const file = join(folder, "tokenizer.json");
    for (
      const [spec, message] of [
        [
          join(folder, "no.json"),
          `Cannot read tokenizer ${join(folder, "no.json")}: there is no such file`,
        ],
        [folder, `Cannot read ${join(folder, "tokenizer_config.json")} as it must be JSON`],
        [file, `Cannot read ${join(folder, "tokenizer_config.json")} as it must be JSON`],
      ]
    ) {
      await assert.rejects(loadTokenizer(spec!), { message });
    }
    await Deno.remove(join(folder, "tokenizer_config.json"));
    await assert.rejects(loadTokenizer(join(folder, "bad.json")), {
      message: `Cannot read ${
        join(folder, "bad.json")
      } as it must be a tokenizer.json: it has no model`,
    });
  });
  await assert.rejects(loadTokenizer("hf:"), { name: "SyntaxError", message: /hf:OWNER\/NAME/ });
});

Deno.test("loadTokenizer() takes a model's tokenizer from the hub, and offline from its cache", async () => {
  await using server = new HubServer("cats/small");
  const home = await Deno.makeTempDir();
  try {
    const environment = { HF_HOME: home, HF_ENDPOINT: server.endpoint };
    const bytes = (text: string) => new TextEncoder().encode(text);
    const small = { large: false };
    const first = server.publish("tokenizer.json", bytes(compact.json), small);
    const load = (spec: string, more = {}) =>
      loadTokenizer(spec, { environment: { ...environment, ...more }, sleep: async () => {} });
    assert.equal((await load("hf:cats/small")).hash, compact.hash);
    const offline = { HF_HUB_OFFLINE: "1" };
    assert.equal((await load("hf:cats/small", offline)).hash, compact.hash);

    // what stands beside it is taken from the same commit
    const file = JSON.parse(compact.json);
    file.model.vocab["<end>"] = compact.vocabularySize;
    server.publish("tokenizer.json", bytes(JSON.stringify(file)), small);
    server.publish("tokenizer_config.json", bytes('{"eos_token":"<end>"}'), small);
    assert.equal((await load("hf:cats/small")).endOfTextToken, "<end>");
    assert.equal((await load("hf:cats/small", offline)).endOfTextToken, "<end>");
    assert.equal((await load(`hf:cats/small@${first}`)).endOfTextToken, "<|endoftext|>");

    await assert.rejects(load("hf:cats/small/other.json"), {
      name: "HubError",
      message: /no such/,
    });
    server.publish("sub/tokenizer.json", bytes(compact.json), small);
    server.publish("sub/tokenizer_config.json", bytes('{"eos_token":"<|endoftext|>"}'), small);
    const sub = await load("hf:cats/small/sub/tokenizer.json");
    assert.equal(sub.hash, compact.hash);
    // a refusal is no absence: what ends a document is not guessed
    server.publish("tokenizer.json", bytes(compact.json), small);
    let asked = 0;
    server.fault = ({ path }) =>
      path.includes("/paths-info/") && ++asked === 2 ? refuse(403) : undefined;
    await assert.rejects(load("hf:cats/small"), { name: "HubError" });
  } finally {
    await Deno.remove(home, { recursive: true });
  }
});
