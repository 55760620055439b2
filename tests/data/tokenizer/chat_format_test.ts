import assert from "node:assert/strict";
import { UserError } from "../../../files/user_error.ts";
import type { Conversation } from "../../../data/text/conversations.ts";
import { gpt2File } from "../../../data/tokenizer/byte_level.ts";
import {
  createChatFormat,
  defaultChatTemplate,
  withChatFormat,
} from "../../../data/tokenizer/chat_format.ts";
import {
  gpt2Tokenizer,
  parseTokenizer,
  type Tokenizer,
} from "../../../data/tokenizer/tokenizer.ts";
import { differencesOf, type EncodedByTransformers } from "../../parity/conversations.ts";

const conversation: Conversation = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Who is Tim?" },
  { role: "assistant", content: "A boy 😀 " },
  { role: "user", content: " \n" },
  { role: "assistant", content: "" },
];

/** A tokenizer of bytes, with these special tokens. */
async function byteTokenizer(...specials: string[]): Promise<Tokenizer> {
  const bytes = [...(await gpt2Tokenizer()).json.matchAll(/"(\\?.)":(\d+)/gu)]
    .filter(([, , id]) => Number(id) < 256)
    .map(([, byte]) => JSON.parse(`"${byte}"`) as string);
  const added = specials.map((content, i) => ({ id: 256 + i, content, special: true }));
  const vocab = Object.fromEntries(
    [...bytes, ...specials].map((token, id) => [token, id]),
  );
  return await parseTokenizer(JSON.stringify(gpt2File({ vocab, merges: [], added })));
}

/** The answers of a conversation, as texts. */
async function answersOf(
  tokenizer: Tokenizer,
  messages: Conversation,
): Promise<{ text: string; answers: string[] }> {
  const { ids, answers } = (await createChatFormat(tokenizer)).encode(messages);
  const textOf = (start: number, end: number) => tokenizer.decode(ids.slice(start, end));
  return {
    text: textOf(0, ids.length),
    answers: answers.map(({ start, end }) => textOf(start, end)),
  };
}

Deno.test("createChatFormat() writes roles as text when the tokenizer has no template", async () => {
  const tokenizer = await gpt2Tokenizer(), format = await createChatFormat(tokenizer);
  const { text, answers } = await answersOf(tokenizer, conversation);
  assert.equal(
    text,
    "<|system|>\nBe brief.<|endoftext|>\n<|user|>\nWho is Tim?<|endoftext|>\n" +
      "<|assistant|>\nA boy 😀 <|endoftext|>\n<|user|>\n \n<|endoftext|>\n<|assistant|>\n<|endoftext|>",
  );
  assert.deepEqual(answers, ["A boy 😀 <|endoftext|>", "<|endoftext|>"]);
  assert.deepEqual(format.endIds, [tokenizer.endOfText]);
  const prompt = format.promptIds(conversation.slice(0, 2));
  assert.ok(text.startsWith(tokenizer.decode(prompt)));
  assert.ok(tokenizer.decode(prompt).endsWith("<|assistant|>\n"));
  const first = await answersOf(tokenizer, [{ role: "assistant", content: "Hello" }]);
  assert.deepEqual(first, {
    text: "<|assistant|>\nHello<|endoftext|>",
    answers: ["Hello<|endoftext|>"],
  });
});

Deno.test("createChatFormat() writes ChatML when the tokenizer has its tokens", async () => {
  const tokenizer = await byteTokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>");
  const format = await createChatFormat(tokenizer);
  const { text, answers } = await answersOf(tokenizer, conversation.slice(1, 3));
  assert.equal(
    text,
    "<|im_start|>user\nWho is Tim?<|im_end|>\n<|im_start|>assistant\nA boy 😀 <|im_end|>\n",
  );
  assert.deepEqual(answers, ["A boy 😀 <|im_end|>\n"]);
  assert.deepEqual(format.endIds, [258, 256]);
});

Deno.test("encode() follows the marks of a template when it has some", async () => {
  const tokenizer = await gpt2Tokenizer();
  const chatTemplate = "{% for m in messages %}\r\n" +
    "  {%- if m.role == 'assistant' %}\n{{ '[' }}{% generation %}\n{{ m.content | trim }}" +
    "{{ eos_token }}{% endgeneration %}\n{{ ']' }}{% else %}{{ m.content.strip('B ') }}!\n{% endif %}" +
    "{% endfor %}\n";
  const { text, answers } = await answersOf({ ...tokenizer, chatTemplate }, [
    ...conversation,
    { role: "assistant", content: "\ufeff\x85 \u{103ff}\x1c" },
  ]);
  assert.equal(
    text,
    "e brief.!\nWho is Tim?!\n[A boy 😀<|endoftext|>]\n!\n[<|endoftext|>]" +
      "[\ufeff\x85 \u{103ff}<|endoftext|>]",
  );
  assert.deepEqual(answers, [
    "A boy 😀<|endoftext|>",
    "<|endoftext|>",
    "\ufeff\x85 \u{103ff}<|endoftext|>",
  ]);
});

Deno.test("encode() counts whole tokens, outer marks, and no half characters", async () => {
  const tokenizer = await gpt2Tokenizer();
  const said = async (content: string, chatTemplate: string) => {
    const messages = [{ role: "assistant", content }];
    return (await answersOf({ ...tokenizer, chatTemplate }, messages)).answers;
  };
  const marked = "<{% generation %}{{ messages[0].content }}{% endgeneration %}";
  assert.deepEqual(await said(" walk", `${marked}ing on`), [" walking"]);
  assert.deepEqual(await said("a\ud801b\udc00", marked), ["a\ufffdb\ufffd"]);
  const twice = "{% generation %} a{% generation %} b{% endgeneration %} c{% endgeneration %}";
  assert.deepEqual(await said("", `.${twice} d`), [" a b c"]);
});

Deno.test("render() joins the line ends of a template", async () => {
  const format = await createChatFormat({ ...await gpt2Tokenizer(), chatTemplate: "a\r\nb\rc\n" });
  assert.equal(format.render([]), "a\nb\nc");
});

Deno.test("encode() ends an answer with its message if the template writes it in another way later", async () => {
  const chatTemplate = "{% for m in messages %}<{{ m.role }}>{{ '\\n' }}" +
    "{% if loop.last and m.role == 'assistant' %}(thought){% endif %}{{ m.content }}{{ eos_token }}\n" +
    "{% endfor %}{% if add_generation_prompt %}<assistant>{{ '\\n' }}{% endif %}";
  const { answers } = await answersOf({ ...await gpt2Tokenizer(), chatTemplate }, conversation);
  assert.deepEqual(answers, ["A boy 😀 <|endoftext|>", "(thought)<|endoftext|>\n"]);
  const format = await createChatFormat({ ...await gpt2Tokenizer(), chatTemplate });
  const twice = [...conversation, conversation[2]!]; // the text that asks for the last is no beginning
  assert.throws(() => format.encode(twice), /up to message 6 of 6$/);
});

Deno.test("encode() and promptIds() give the ids and the answers that transformers gives", async () => {
  const path = new URL("../../golden/conversations.json", import.meta.url);
  const golden = JSON.parse(Deno.readTextFileSync(path)) as EncodedByTransformers;
  assert.ok(golden.cases.length > 30);
  assert.deepEqual(await differencesOf(golden), []);
});

Deno.test("encode() refuses a template that writes the beginning of a conversation in two ways", async () => {
  const chatTemplate =
    "{% for m in messages %}{{ m.content }}{% if loop.last %}.{% endif %}{% endfor %}";
  const format = await createChatFormat({ ...await gpt2Tokenizer(), chatTemplate });
  assert.throws(() => format.encode(conversation), {
    name: "ConversationError",
    message:
      /^Cannot encode a conversation as the chat template must mark .* not up to message 3 of 5$/,
  });
});

Deno.test("createChatFormat() and encode() refuse templates that fail or exceed a bound", async () => {
  const tokenizer = await gpt2Tokenizer();
  const cases: [template: string, message: RegExp][] = [
    [
      "{% for %}",
      /^Cannot use a chat template as it must be Jinja: Unexpected token: CloseStatement$/,
    ],
    [
      "{% for m in messages %}",
      /^Cannot use a chat template as it must be Jinja: it ends before a block does, such as \{% for %\}/,
    ],
    [`{{ ${"\x1b".repeat(999)} }}`, /Jinja: Unexpected character: \\u\{1b\}$/],
    [
      `{{ ' ' }}${" \n".repeat(126)}`,
      /Jinja: it has more than 250 characters of white space in a row$/,
    ],
    ["{{ raise_exception('no \x1b turn') }}", /chat template: it says "no \\u001b turn"$/],
    [
      "{% for i in range(9000) %}{% for i in range(9000) %}{% endfor %}{% endfor %}",
      /1000000 steps/,
    ],
    [
      "{% for i in range(99) %}{% set x = range(99999) | reverse | list %}{% endfor %}",
      /1000000 steps/,
    ],
    ["{{ range(10 ** 9) }}", /it makes something longer than 1048576$/],
    [
      "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      /it makes something longer than 16777216$/,
    ],
    ["{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}", /it exceeds the memory$/],
    ["{{ messages | nothing }}", /Unknown ArrayValue filter: nothing$/],
  ];
  for (const [chatTemplate, message] of cases) {
    await assert.rejects(
      async () => (await createChatFormat({ ...tokenizer, chatTemplate })).encode(conversation),
      (error: Error) => {
        assert.ok(error instanceof UserError);
        assert.match(error.message, message);
        return true;
      },
    );
  }
});

Deno.test("createChatFormat() names the file of a template that is not Jinja", async () => {
  const chatTemplate = "{% if messages %}", chatTemplateFile = `a\x1b/${"b".repeat(999)}`;
  const tokenizer = { ...await gpt2Tokenizer(), chatTemplate, chatTemplateFile };
  await assert.rejects(createChatFormat(tokenizer), {
    name: "UserError",
    message: /^Cannot use the chat template in a\\u\{1b\}\/b{197}… as it must be Jinja: it ends/,
  });
});

Deno.test("render() writes what is true or false as Python does", async () => {
  const chatTemplate = "{{ messages[0].content is string }} {{ 1 > 2 }} {{ true }} {{ not none }}";
  const format = await createChatFormat({ ...await gpt2Tokenizer(), chatTemplate });
  assert.equal(format.render(conversation), "True False True True");
});

Deno.test("createChatFormat() gives a template the date only when it is an argument", async () => {
  const chatTemplate =
    "{{ strftime_now('%d %b %Y, %H:%M') if strftime_now is defined else 'no date' }}";
  const tokenizer = { ...await gpt2Tokenizer(), chatTemplate };
  const now = new Date(2026, 1, 3, 4, 5);
  assert.equal((await createChatFormat(tokenizer)).render([]), "no date");
  assert.equal((await createChatFormat(tokenizer, { now })).render([]), "03 Feb 2026, 04:05");
});

Deno.test("withChatFormat() adds the default template, and ends texts where answers end", async () => {
  const tokenizer = await byteTokenizer("<|endoftext|>", "<|turn|>");
  const plain = await withChatFormat(tokenizer);
  assert.deepEqual([plain.chatTemplate, plain.endIds], [defaultChatTemplate(tokenizer), [256]]);
  const others = [{ name: "tool_use", template: "" }];
  const named = await withChatFormat({ ...tokenizer, chatTemplate: others });
  const added = { name: "default", template: defaultChatTemplate(tokenizer) };
  assert.deepEqual(named.chatTemplate, [added, ...others]);
  const template = "{% for m in messages %}{{ m.content }}<|turn|>{% endfor %}";
  for (
    const chatTemplate of [template, [{ name: "default", template }, { name: "a", template: "" }]]
  ) {
    const kept = await withChatFormat({ ...tokenizer, chatTemplate });
    assert.deepEqual([kept.chatTemplate, kept.endIds], [chatTemplate, [257, 256]]);
  }
});

Deno.test("defaultChatTemplate() begins with the token that begins every text", async () => {
  const tokenizer = await gpt2Tokenizer();
  const begun = { ...tokenizer, beginOfText: tokenizer.encode("!")[0]! };
  assert.ok(defaultChatTemplate(begun).startsWith('{{ "!" }}{% for'));
});
