import assert from "node:assert/strict";
import { join } from "node:path";
import { loadTokenizer } from "../../../data/tokenizer/load.ts";
import { compactTokenizer, gpt2Tokenizer } from "../../../data/tokenizer/tokenizer.ts";
import { HubServer, refuse } from "../hub/server.ts";

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

Deno.test("loadTokenizer() keeps the chat template to the byte, and what begins a text", async () => {
  const template =
    "{% for m in messages %}\r\n\t{{ '<|im_start|>' + m['role'] }} é\u2028\n\n{% endfor %}";
  const named = [{ name: "default", template }, { name: "tool_use", template: "x" }];
  const config = (fields: object) => JSON.stringify({ bos_token: "<|endoftext|>", ...fields });
  const cases: [files: Record<string, string>, chatTemplate: unknown][] = [
    [{ "tokenizer_config.json": config({ chat_template: template }) }, template],
    [{ "tokenizer_config.json": config({ chat_template: named }) }, named],
    [{ "tokenizer_config.json": config({ chat_template: null }) }, undefined],
    [{ "chat_template.jinja": template }, template],
    [
      { "chat_template.jinja": template, "tokenizer_config.json": config({ chat_template: "no" }) },
      template,
    ],
  ];
  for (const [files, chatTemplate] of cases) {
    await withFiles({ "tokenizer.json": compact.json, ...files }, async (folder) => {
      const tokenizer = await loadTokenizer(folder);
      assert.deepEqual(tokenizer.chatTemplate, chatTemplate);
      const file = chatTemplate && join(folder, Object.keys(files)[0]!);
      assert.equal(tokenizer.chatTemplateFile, file);
      assert.equal(tokenizer.bosToken, undefined);
      assert.equal(tokenizer.hash, compact.hash);
    });
  }
  const begun = { "tokenizer_config.json": config({ bos_token: { content: "!" } }) };
  await withFiles({ "tokenizer.json": compact.json, ...begun }, async (folder) => {
    assert.equal((await loadTokenizer(folder)).bosToken, "!");
  });
  const long = "x".repeat(2 ** 20 + 1);
  const many = new Array(17).fill(named[0]);
  for (
    const chat_template of [7, {}, [template], [{ name: "a" }], many, long, "\x1b".repeat(2 ** 21)]
  ) {
    const files = { "tokenizer_config.json": config({ chat_template }) };
    await withFiles({ "tokenizer.json": compact.json, ...files }, async (folder) => {
      await assert.rejects(loadTokenizer(folder), ({ name, message }: Error) => {
        assert.equal(name, "UserError");
        assert.match(
          message,
          /^Cannot read .*tokenizer_config\.json as its chat template must be a text of at/,
        );
        assert.ok(message.length < 2000 && !message.includes("\x1b"));
        return true;
      });
    });
  }
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

/** The compact tokenizer in GPT-2's older files. */
function olderFiles(more: Record<string, unknown> = {}): Record<string, string> {
  const { vocab, merges } = JSON.parse(compact.json).model;
  const files = Object.entries(more).map(([name, content]) => [name, JSON.stringify(content)]);
  return {
    "vocab.json": JSON.stringify(vocab),
    "merges.txt": `#version: 0.2\n${merges.join("\n")}\n`,
    ...Object.fromEntries(files),
  };
}

const V = compact.vocabularySize;

Deno.test("loadTokenizer() reads vocab.json and merges.txt with the tokens that were added to them", async () => {
  await withFiles(olderFiles(), async (folder) => {
    assert.equal((await loadTokenizer(folder)).hash, compact.hash);
  });
  const files = olderFiles({
    "added_tokens.json": { "<|im_end|>": V, "<tag>": V + 1 },
    "tokenizer_config.json": { eos_token: "<|im_end|>" },
    "special_tokens_map.json": { eos_token: "<|other|>" },
  });
  await withFiles(files, async (folder) => {
    const { endOfText, endOfTextToken, encode, encodeDocument, decode } = await loadTokenizer(
      folder,
    );
    assert.deepEqual([endOfText, endOfTextToken], [V, "<|im_end|>"]);
    assert.deepEqual(encode("<tag><|im_end|><|endoftext|>"), [V + 1, V, compact.endOfText]);
    const ids = encodeDocument("a<tag>b <|im_end|>");
    assert.ok(ids.includes(V + 1) && !ids.includes(V), ids.join());
    assert.equal(decode(ids), "a<tag>b <|im_end|>");
  });
  const described = olderFiles({
    "added_tokens.json": { "<ignored>": V },
    "tokenizer_config.json": {
      add_prefix_space: true,
      added_tokens_decoder: {
        [V]: { content: "<end>", special: true, lstrip: true },
        [V + 1]: { content: "<tag>", special: false },
      },
    },
    "special_tokens_map.json": { eos_token: { content: "<end>", lstrip: true } },
  });
  await withFiles(described, async (folder) => {
    const { endOfText, encode, encodeDocument } = await loadTokenizer(folder);
    assert.equal(endOfText, V);
    assert.deepEqual(encode("<tag>  <end>"), [V + 1, V]);
    assert.deepEqual(encodeDocument("a <ignored>"), compact.encodeDocument(" a <ignored>"));
  });
});

Deno.test("loadTokenizer() adds tokens that only the files beside a tokenizer.json have", async () => {
  const config = { "tokenizer_config.json": JSON.stringify({ eos_token: "<|im_end|>" }) };
  const added = {
    "added_tokens.json": JSON.stringify({ "<|im_end|>": V, "<|endoftext|>": V - 1 }),
  };
  await withFiles({ "tokenizer.json": compact.json, ...config, ...added }, async (folder) => {
    const { endOfText, encode, encodeDocument } = await loadTokenizer(folder);
    assert.equal(endOfText, V);
    assert.deepEqual(encode("<|im_end|><|endoftext|>"), [V, compact.endOfText]);
    assert.deepEqual(encodeDocument("a <|im_end|>"), compact.encodeDocument("a <|im_end|>"));
  });
  await withFiles({ "tokenizer.json": "{", ...config, ...added }, async (folder) => {
    await assert.rejects(loadTokenizer(folder), {
      message: /tokenizer\.json as it must be JSON$/,
      hint: "Name a tokenizer.json: the command tokenizer makes one from text",
    });
  });
  const same = { "added_tokens.json": JSON.stringify({ "<|endoftext|>": V - 1 }) };
  await withFiles({ "tokenizer.json": compact.json, ...same }, async (folder) => {
    assert.equal((await loadTokenizer(folder)).hash, compact.hash);
  });
});

Deno.test("loadTokenizer() leaves out added tokens that the model has no row for", async () => {
  const padded = { "added_tokens.json": { "[PAD]": V, "<tag>": V - 2 } };
  await withFiles(olderFiles(padded), async (folder) => {
    const { vocabularySize, encode } = await loadTokenizer(folder, { vocabularySize: V });
    assert.equal(vocabularySize, V);
    assert.deepEqual(encode("[PAD]"), compact.encode("[PAD]"));
  });
  const ends = { ...padded, "tokenizer_config.json": { eos_token: "[PAD]" } };
  await withFiles(olderFiles(ends), async (folder) => {
    await assert.rejects(loadTokenizer(folder, { vocabularySize: V }), {
      name: "UserError",
      message: /its ids must be below the model's \d+: current value is \d+$/,
    });
  });
});

Deno.test("loadTokenizer() refuses damaged older files in a sentence", async () => {
  const config = (fields: object) => ({ "tokenizer_config.json": fields });
  const decoder = (token: unknown, id = "5") => config({ added_tokens_decoder: { [id]: token } });
  const cases: [files: Record<string, unknown>, message: RegExp][] = [
    [{ "added_tokens.json": { "<tag>": "5" } }, /added_tokens id must be a whole number: .*"5"$/],
    [{ "added_tokens.json": ["<tag>"] }, /added_tokens\.json as it must be a JSON object$/],
    [{ "vocab.json": { a: 1.5 } }, /the id of "a" must be a whole number below \d+: .* 1\.5$/],
    [{ "special_tokens_map.json": [] }, /special_tokens_map\.json as it must be a JSON object$/],
    [decoder("<tag>"), /added_tokens content must be a text: current value is undefined$/],
    [decoder({ content: 5 }), /added_tokens content must be a text: current value is 5$/],
    [decoder({ content: "a", special: "yes" }), /added_tokens special must be true or false/],
    [decoder({ content: "a" }, "x\x1b"), /added_tokens id must be a whole number/],
  ];
  for (const [files, message] of cases) {
    await withFiles(olderFiles(files), async (folder) => {
      await assert.rejects(loadTokenizer(folder), { name: "UserError", message });
    });
  }
  const absent = olderFiles(config({ eos_token: "<none>" }));
  await withFiles(absent, async (folder) => {
    await assert.rejects(loadTokenizer(folder), { name: "UserError", message: /"<none>"$/ });
  });
  await withFiles({ ...olderFiles(), "merges.txt": "a b c\x1b[2J" }, async (folder) => {
    await assert.rejects(loadTokenizer(folder), {
      message: /model\.merges must hold pairs of tokens: current value is "a b c\\u001b\[2J"$/,
    });
  });
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
      message: `Cannot read ${join(folder, "bad.json")} as it must be a JSON object`,
    });
  });
  await assert.rejects(loadTokenizer("hf:"), { name: "UserError", message: /hf:OWNER\/NAME/ });
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
      loadTokenizer(spec, { environment: { ...environment, ...more } });
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

    const added = {
      "tokenizer_config.json": { added_tokens_decoder: { [V]: { content: "<tag>" } } },
      "added_tokens.json": { "<tag>": V },
    };
    for (const [folder, [name, content]] of Object.entries(added).entries()) {
      server.publish(`${folder}/tokenizer.json`, bytes(compact.json), small);
      server.publish(`${folder}/${name}`, bytes(JSON.stringify(content)), small);
      const { encode } = await load(`hf:cats/small/${folder}/tokenizer.json`);
      assert.deepEqual(encode("<tag>"), [V], name);
    }

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
    const hash = "0".repeat(40);
    const huge = { "X-Repo-Commit": hash, "ETag": hash, "X-Linked-Size": "1000000000" };
    for (const answer of [() => refuse(403), () => new Response(null, { headers: huge })]) {
      let asked = 0;
      server.fault = ({ method }) => method === "HEAD" && ++asked === 2 ? answer() : undefined;
      await assert.rejects(load("hf:cats/small"), { name: "HubError" });
    }
  } finally {
    await Deno.remove(home, { recursive: true });
  }
});

Deno.test("loadTokenizer() says in a sentence that the system refuses to look up a path", async () => {
  await assert.rejects(loadTokenizer("x".repeat(5000)), {
    name: "UserError",
    message: /^Cannot read tokenizer x+: \S.+$/,
  });
});
