import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import type { GptConfig } from "../../../model/config.ts";
import {
  parseEndIds,
  parseHuggingFaceConfig,
  toHuggingFaceConfig,
} from "../../../model/files/hugging_face.ts";
import { parseAdapterConfig, storedAdapters, toAdapterConfig } from "../../../model/files/lora.ts";
import { shardNames } from "../../../model/files/tensor_files.ts";
import { freshSeed } from "../../seeds.ts";

/** As transformers writes them, with what it may leave out. */
const GPT2 = {
  ...{ model_type: "gpt2", vocab_size: 300, n_positions: 16, n_embd: 24, n_layer: 3, n_head: 2 },
};
const NEO = {
  ...{ model_type: "gpt_neo", vocab_size: 300, max_position_embeddings: 600, hidden_size: 24 },
  ...{ num_layers: 4, num_heads: 2, attention_types: [[["global", "local"], 2]] },
};

const parse = (fields: object) => parseHuggingFaceConfig(JSON.stringify(fields), "config.json");

Deno.test("parseHuggingFaceConfig() fills in what a config.json leaves out, as transformers does", () => {
  const sizes = { vocabularySize: 300, contextLength: 16, width: 24, layers: 3, heads: 2 };
  assert.deepEqual(parse(GPT2), sizes);
  assert.deepEqual(parse({ ...GPT2, n_inner: null }), sizes);
  assert.deepEqual(parse({ ...GPT2, n_inner: 96 }), sizes); // four times as wide
  assert.deepEqual(parse({ ...GPT2, n_inner: 48 }), { ...sizes, innerWidth: 48 });
  assert.deepEqual(parse({ ...GPT2, scale_attn_weights: false }), { ...sizes, attentionScale: 1 });
  assert.deepEqual(parse({ ...GPT2, tie_word_embeddings: false }), { ...sizes, ownHead: true });
  assert.deepEqual(
    parse({ ...GPT2, reorder_and_upcast_attn: true, scale_attn_by_inverse_layer_idx: true }),
    { ...sizes, attentionScaleByLayer: true },
  );
  const activations = {
    ...{ gelu_new: undefined, gelu_pytorch_tanh: undefined, gelu_fast: undefined },
    ...{ gelu: "gelu", gelu_python: "gelu", relu: "relu", relu2: "relu2" },
    ...{ silu: "silu", swish: "silu" },
  };
  for (const [activation_function, activation] of Object.entries(activations)) {
    assert.deepEqual(parse({ ...GPT2, activation_function, layer_norm_epsilon: 1e-6 }), {
      ...sizes,
      ...(activation === undefined ? {} : { activation }),
      normEpsilon: 1e-6,
    });
  }
  const neo = {
    ...{ vocabularySize: 300, contextLength: 600, width: 24, layers: 4, heads: 2 },
    ...{ family: "gpt_neo", attentionScale: 1 },
  };
  // 0 sees all; a local layer looks back 256 tokens unless it says otherwise
  assert.deepEqual(parse(NEO), { ...neo, attentionWindows: [0, 256, 0, 256] });
  const attention_types = [[["local"], 1], [["global", "global"], 1], [["local"], 1]];
  assert.deepEqual(parse({ ...NEO, attention_types, window_size: 7 }), {
    ...neo,
    attentionWindows: [7, 0, 0, 7],
  });
});

Deno.test("toHuggingFaceConfig() tells transformers everything that makes the model another", () => {
  const base: GptConfig = {
    vocabularySize: 300,
    contextLength: 16,
    width: 24,
    layers: 2,
    heads: 2,
  };
  const changes: [Partial<GptConfig>, Record<string, unknown>][] = [
    [{ innerWidth: 48 }, { n_inner: 48 }],
    [{ attentionScale: 1 }, { scale_attn_weights: false }],
    [{ activation: "gelu" }, { activation_function: "gelu" }],
    [{ normEpsilon: 1e-12 }, { layer_norm_epsilon: 1e-12 }],
    [{ attentionScaleByLayer: true }, { scale_attn_by_inverse_layer_idx: true }],
    [{ ownHead: true }, { tie_word_embeddings: false }],
    [{ contextLength: 8 }, { n_positions: 8, n_ctx: 8 }],
  ];
  const plain = toHuggingFaceConfig(base, { endOfText: 5 });
  for (const [change, fields] of changes) {
    const changed = toHuggingFaceConfig({ ...base, ...change }, { endOfText: 5 });
    assert.deepEqual(changed, { ...plain, ...fields });
  }
  // one id is a number, several are a list
  assert.equal(plain.eos_token_id, 5);
  assert.deepEqual(toHuggingFaceConfig(base, { endOfText: 5, endIds: [7, 5] }), {
    ...plain,
    eos_token_id: [7, 5],
  });
  const { attn_pdrop, embd_pdrop, resid_pdrop } = toHuggingFaceConfig(base, {
    ...{ endOfText: 5, dropout: 0.1 },
  });
  assert.deepEqual([attn_pdrop, embd_pdrop, resid_pdrop], [0.1, 0.1, 0.1]);

  const neo = { ...base, family: "gpt_neo" as const, attentionScale: 1, attentionWindows: [0, 7] };
  const { window_size, attention_types, attention_layers } = toHuggingFaceConfig(neo, {
    ...{ endOfText: 5 },
  });
  assert.deepEqual([window_size, attention_types, attention_layers], [
    7,
    [[["global", "local"], 1]],
    ["global", "local"],
  ]);
  const wide = toHuggingFaceConfig({ ...neo, attentionWindows: [0, 0] }, { endOfText: 5 });
  assert.equal(wide.window_size, 256);
});

Deno.test("toAdapterConfig() says how the layers that have adapters are stored", () => {
  const lora = { rank: 3, alpha: 6, targets: ["c_attn"] };
  const base: GptConfig = {
    ...{ vocabularySize: 300, contextLength: 16, width: 24, layers: 2, heads: 2 },
    lora,
  };
  const gpt2 = toAdapterConfig(base, { base: "tiny/model", revision: "abc" });
  const neo = toAdapterConfig({ ...base, family: "gpt_neo" }, { base: "tiny/model" });
  // GPT-2's are [inputs,outputs], GPT-Neo's the other way round
  assert.deepEqual([gpt2.fan_in_fan_out, neo.fan_in_fan_out], [true, false]);
  assert.deepEqual([gpt2.r, gpt2.lora_alpha, gpt2.target_modules, gpt2.revision, neo.revision], [
    ...[3, 6, ["c_attn"], "abc", null],
  ]);
  assert.deepEqual(parseAdapterConfig(JSON.stringify(gpt2), "adapter_config.json"), {
    ...{ lora, base: "tiny/model", revision: "abc" },
  });
});

const CONFIG: GptConfig = { vocabularySize: 50, contextLength: 8, width: 8, layers: 2, heads: 2 };
const LOCAL: GptConfig = {
  ...CONFIG,
  family: "gpt_neo",
  attentionScale: 1,
  attentionWindows: [0, 256],
};
const LORA: GptConfig = { ...CONFIG, lora: { rank: 2, alpha: 4, targets: ["c_attn"] } };

Deno.test("parseHuggingFaceConfig() refuses fields of other types by their names", () => {
  const cases: [config: GptConfig, fields: Record<string, unknown>, message: string][] = [
    [
      CONFIG,
      { n_embd: "8\x1b[2J" },
      'n_embd must be a whole number: current value is "8\\u001b[2J"',
    ],
    [CONFIG, { vocab_size: null }, "vocab_size must be a whole number: current value is null"],
    [CONFIG, { n_layer: [2] }, "n_layer must be a whole number: current value is [2]"],
    [
      CONFIG,
      { activation_function: "quick_gelu" },
      'activation_function must be "gelu_new" or "gelu_pytorch_tanh" or "gelu_fast" or "gelu_accurate" or ' +
      '"gelu" or "gelu_python" or "relu" or "relu2" or "silu" or "swish": current value is "quick_gelu"',
    ],
    [
      CONFIG,
      { layer_norm_epsilon: "1e-5" },
      'layer_norm_epsilon must be a number: current value is "1e-5"',
    ],
    [
      CONFIG,
      { layer_norm_epsilon: 0 },
      "normEpsilon must be a number above 0 and at most 1: current value is 0",
    ],
    [CONFIG, { n_inner: {} }, "n_inner must be a whole number: current value is {}"],
    [LOCAL, { num_heads: 1.5 }, "num_heads must be a whole number: current value is 1.5"],
    [
      LOCAL,
      { attention_types: [[["global"], 1e9]] },
      "attention_types must say global or local for each of 2 layers: " +
      'current value is [[["global"],1000000000]]',
    ],
    [
      LOCAL,
      { attention_types: [[[], 1e15]] }, // nothing, for hours
      "attention_types must say global or local for each of 2 layers: " +
      "current value is [[[],1000000000000000]]",
    ],
  ];
  for (const [config, fields, message] of cases) {
    const json = JSON.stringify({ ...toHuggingFaceConfig(config, { endOfText: 0 }), ...fields });
    assert.throws(() => parseHuggingFaceConfig(json, "config.json"), {
      name: "UserError",
      message: `Cannot load config.json as ${message}`,
    });
  }
});

Deno.test("damaged configurations are read or refused in a sentence, and fail in no other way", () => {
  const seed = freshSeed(), random = new Random(seed);
  const pick = <T>(values: readonly T[]): T => values[random.below(values.length)]!;
  const ends = { endOfText: 1, endIds: [1, 2] };
  const adapters = {
    ...toAdapterConfig(LORA, { base: "base", revision: "main" }),
    rank_pattern: { "h.0.attn.c_attn": 3 },
    alpha_pattern: { c_attn: 5 },
  };
  const files: [what: object, read: (json: string) => unknown][] = [
    [toHuggingFaceConfig(CONFIG, ends), (json) => parseHuggingFaceConfig(json, "f.json")],
    [toHuggingFaceConfig(LOCAL, ends), (json) => parseHuggingFaceConfig(json, "f.json")],
    [toHuggingFaceConfig(CONFIG, ends), (json) => parseEndIds(json, "f.json")],
    [adapters, (json) => {
      return storedAdapters(CONFIG, parseAdapterConfig(json, "f.json").lora);
    }],
    [
      { metadata: {}, weight_map: { a: "m.safetensors", b: "n.bin" } },
      (json) => shardNames(json, "f.json"),
    ],
  ];
  const damages = [null, -1, 0, 1.5, 1e300, "", "\x1b[2J", true, [], {}, [null], [[[]]], { a: 1 }];
  for (let round = 0; round < 3000; round++) {
    const [what, read] = files[round % files.length]!, copy = structuredClone(what);
    const path: string[] = [];
    // deno-lint-ignore no-explicit-any
    for (let at: any = copy;;) {
      const key = pick(Object.keys(at)), inner = at[key];
      path.push(key);
      const isLeaf = typeof inner !== "object" || inner === null || Object.keys(inner).length === 0;
      if (isLeaf || random.below(2) === 0) {
        at[key] = structuredClone(pick(damages));
        break;
      }
      at = inner;
    }
    let json = JSON.stringify(copy);
    if (random.below(10) === 0) json = json.slice(0, random.below(json.length));
    const where = `seed ${seed}, round ${round}: ${path.join(".")}`;
    try {
      read(json);
    } catch (error) {
      const { name, message, stack } = error as Error;
      assert.match(name, /^UserError$/, `${where}: ${stack}`);
      assert.match(message, /^Cannot (read|load|build) /, where);
      assert.ok(!message.includes("\x1b"), `${where}: ${message}`);
      assert.doesNotMatch(message, /not a function|properties of/, where);
    }
  }
});
