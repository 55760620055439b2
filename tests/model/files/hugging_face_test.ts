import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import type { GptConfig } from "../../../model/config.ts";
import {
  familyOf,
  parseEndIds,
  parseHuggingFaceConfig,
  toCheckpointConfig,
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

const LLAMA = {
  ...{ model_type: "llama", vocab_size: 300, max_position_embeddings: 64, hidden_size: 32 },
  ...{ intermediate_size: 40, num_hidden_layers: 3, num_attention_heads: 4 },
};
const NEOX = { ...LLAMA, model_type: "gpt_neox", use_parallel_residual: false, rotary_pct: 1 };
const MISTRAL = { ...LLAMA, model_type: "mistral", num_key_value_heads: 2 };
const QWEN3 = { ...MISTRAL, model_type: "qwen3", head_dim: 12 };

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

Deno.test("parseHuggingFaceConfig() fills in what the config.json of a Llama, Mistral or Qwen3 leaves out, as transformers does", () => {
  const sizes = {
    ...{ vocabularySize: 300, contextLength: 64, width: 32, layers: 3, heads: 4 },
    ...{ family: "llama", innerWidth: 40, normEpsilon: 1e-6, ownHead: true },
  };
  const llama3 = {
    ...{ factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
    original_max_position_embeddings: 16,
  };
  const rotaryScaling = {
    ...{ type: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 },
    originalContextLength: 16,
  };
  const linear = { type: "linear", factor: 2 };
  const windows = [32, 32, 32];
  const cases: [fields: Record<string, unknown>, config: Record<string, unknown>][] = [
    [LLAMA, {}],
    [{ ...LLAMA, num_key_value_heads: null, head_dim: null, rope_scaling: null }, {}],
    [{ ...LLAMA, num_key_value_heads: 1, head_dim: 12 }, { keyHeads: 1, headSize: 12 }],
    [{ ...LLAMA, tie_word_embeddings: true }, { ownHead: false }],
    [{ ...LLAMA, rms_norm_eps: 1e-4, hidden_act: "gelu" }, {
      ...{ normEpsilon: 1e-4, activation: "gelu" },
    }],
    [{ ...LLAMA, attention_bias: true, mlp_bias: true }, {
      ...{ qkvBias: true, projectionBias: true, mlpBias: true },
    }],
    [{ ...LLAMA, rope_theta: 5e5 }, { rotaryBase: 5e5 }], // version 4
    [{ ...LLAMA, rope_parameters: { rope_theta: 5e5, rope_type: "default" } }, { rotaryBase: 5e5 }],
    [{ ...LLAMA, rope_scaling: linear }, { rotaryScaling: linear }],
    [{ ...LLAMA, rope_theta: 9, rope_scaling: { ...llama3, rope_type: "llama3" } }, {
      ...{ rotaryBase: 9, rotaryScaling },
    }],
    [{ ...LLAMA, rope_parameters: { ...llama3, rope_type: "llama3", rope_theta: 9 } }, {
      ...{ rotaryBase: 9, rotaryScaling },
    }],
    [{ ...MISTRAL, sliding_window: null }, { keyHeads: 2 }],
    [{ ...MISTRAL, sliding_window: 32 }, { keyHeads: 2, attentionWindows: windows }],
    [MISTRAL, { keyHeads: 2, attentionWindows: [4096, 4096, 4096] }],
    [QWEN3, { keyHeads: 2, headSize: 12, qkNorm: true }],
    [{ ...QWEN3, head_dim: undefined }, { keyHeads: 2, headSize: 128, qkNorm: true }],
    [{ ...QWEN3, sliding_window: 32, max_window_layers: 0 }, {
      ...{ keyHeads: 2, headSize: 12, qkNorm: true }, // not used
    }],
    [{ ...QWEN3, use_sliding_window: true, sliding_window: 32, max_window_layers: 1 }, {
      ...{ keyHeads: 2, headSize: 12, qkNorm: true, attentionWindows: [0, 32, 32] },
    }],
    [
      {
        ...{ ...QWEN3, use_sliding_window: true, sliding_window: 7, attention_bias: true },
        layer_types: ["sliding_attention", "full_attention", "sliding_attention"],
      },
      {
        ...{ keyHeads: 2, headSize: 12, qkNorm: true, attentionWindows: [7, 0, 7] },
        ...{ qkvBias: true, projectionBias: true },
      },
    ],
  ];
  for (const [fields, config] of cases) {
    const { ownHead, ...expected } = { ...sizes, ...config };
    assert.deepEqual(parse(fields), { ...expected, ...(ownHead ? { ownHead } : {}) });
  }
});

Deno.test("parseHuggingFaceConfig() reads the GPT-NeoX of transformers 4 and 5, and refuses what Pythia has by its fields", () => {
  const neox = {
    ...{ vocabularySize: 300, contextLength: 64, width: 32, layers: 3, heads: 4 },
    ...{ family: "gpt_neox", innerWidth: 40, ownHead: true, activation: "gelu" },
  };
  const { rotary_pct: _, ...withoutPart } = NEOX;
  const linear = { type: "linear", factor: 2 };
  const whole = { rope_theta: 500, rope_type: "default", partial_rotary_factor: 1 };
  const { activation: __, ...withDefault } = neox;
  const cases: [fields: Record<string, unknown>, config: Record<string, unknown>][] = [
    [NEOX, neox],
    [{ ...NEOX, hidden_act: "gelu_new" }, withDefault],
    [{ ...NEOX, rotary_emb_base: 500, layer_norm_eps: 1e-3 }, {
      ...{ ...neox, rotaryBase: 500, normEpsilon: 1e-3 },
    }],
    [{ ...NEOX, rope_theta: 500 }, neox], // transformers does not read it
    [{ ...NEOX, rope_scaling: linear }, { ...neox, rotaryScaling: linear }],
    [{ ...withoutPart, rope_parameters: whole }, { ...neox, rotaryBase: 500 }],
    [{ ...NEOX, attention_bias: false }, { ...neox, qkvBias: false, projectionBias: false }],
  ];
  for (const [fields, config] of cases) assert.deepEqual(parse(fields), config);
  const refused: [fields: Record<string, unknown>, message: string][] = [
    [
      { ...NEOX, use_parallel_residual: true },
      "use_parallel_residual must be false: current value is true",
    ],
    [
      { ...NEOX, use_parallel_residual: undefined }, // which means true
      "use_parallel_residual must be false: current value is undefined",
    ],
    [
      { ...NEOX, rotary_pct: 0.5 },
      "rotary_pct must be 1, all components of heads: current value is 0.5",
    ],
    [withoutPart, "rotary_pct must be 1, all components of heads: current value is 0.25"],
    [
      { ...NEOX, rope_parameters: { ...whole, partial_rotary_factor: 0.25 } },
      "partial_rotary_factor of rope_parameters must be 1: current value is 0.25",
    ],
  ];
  for (const [fields, message] of refused) {
    assert.throws(() => parse(fields), {
      name: "UserError",
      message: `Cannot load config.json as ${message}`,
    });
  }
});

Deno.test("toHuggingFaceConfig() expresses a model as a class of another family if that of its family does not", () => {
  const sizes = { vocabularySize: 300, contextLength: 64, width: 48, layers: 2, heads: 4 };
  const linear = { type: "linear", factor: 3 } as const;
  const neox = { ...sizes, family: "gpt_neox" as const };
  const cases: [config: GptConfig, read: GptConfig][] = [
    [neox, neox],
    [{ ...neox, rotaryScaling: linear, ownHead: true }, {
      ...{ ...neox, rotaryScaling: linear, ownHead: true },
    }],
    [{ ...sizes, positions: "rotary", rotaryBase: 500 }, { ...neox, rotaryBase: 500 }],
    [{ ...neox, positions: "learned" }, sizes],
  ];
  for (const [config, read] of cases) {
    const fields = toHuggingFaceConfig(config, { endOfText: 5 });
    assert.deepEqual(parse(fields), read);
    assert.equal(familyOf(fields), read.family ?? "gpt2");
  }
  assert.equal(familyOf({ model_type: "toy_transformer", family: "llama" }), "llama");
  // as checkpoints had it before there was a family for it
  const older = { ...sizes, positions: "rotary" };
  assert.deepEqual(parse({ model_type: "toy_transformer", ...older }), older);
});

Deno.test("toHuggingFaceConfig() chooses the first of Llama, Mistral and Qwen3 that expresses a model", () => {
  const base: GptConfig = {
    ...{ vocabularySize: 300, contextLength: 64, width: 48, layers: 2, heads: 4 },
    family: "llama",
  };
  const rotaryScaling = {
    ...{ type: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 } as const,
    originalContextLength: 16,
  };
  const attentionWindows = [9, 9];
  const cases: [type: string, config: Partial<GptConfig>][] = [
    ["llama", {}],
    ["llama", { keyHeads: 2, headSize: 16, ownHead: true, rotaryBase: 5e5, rotaryScaling }],
    ["llama", { qkvBias: true, projectionBias: true, mlpBias: true, activation: "relu" }],
    ["llama", { rotaryScaling: { type: "linear", factor: 3 }, innerWidth: 40, normEpsilon: 1e-6 }],
    ["mistral", { attentionWindows, keyHeads: 1 }],
    ["mistral", { attentionWindows: [1, 1], keyHeads: 1 }],
    ["mistral", { width: 40, heads: 3, headSize: 16 }], // LlamaConfig wants a multiple of the heads
    ["qwen3", { qkNorm: true }],
    ["qwen3", { qkNorm: true, qkvBias: true, projectionBias: true, attentionWindows: [0, 9] }],
    ["qwen3", { qkNorm: true, attentionWindows: [9, 0], headSize: 20, rotaryScaling }],
  ];
  for (const [type, change] of cases) {
    const config = { ...base, ...change }, fields = toHuggingFaceConfig(config, { endOfText: 5 });
    assert.equal(fields.model_type, type);
    assert.deepEqual(parse(fields), config);
    assert.deepEqual(toCheckpointConfig(config, { endOfText: 5 }), fields);
  }
  const ends = { endOfText: 5, bosId: 4, dropout: 0.25 };
  const { bos_token_id, eos_token_id, attention_dropout } = toHuggingFaceConfig(base, ends);
  assert.deepEqual([bos_token_id, eos_token_id, attention_dropout], [4, 5, 0.25]);
});

Deno.test("toCheckpointConfig() describes what no class of transformers computes, and toHuggingFaceConfig() names why", () => {
  const sizes = { vocabularySize: 300, contextLength: 64, width: 48, layers: 2, heads: 4 };
  const cases: [config: GptConfig, message: string][] = [
    [
      { ...sizes, positions: "rotary", qkNorm: true },
      "unlike the nearest, gpt_neox, its qkNorm is true",
    ],
    [
      { ...sizes, norm: "rmsnorm", keyHeads: 2 },
      'unlike the nearest, gpt2, its norm is "rmsnorm", keyHeads is 2',
    ],
    [
      { ...sizes, family: "llama", gatedMlp: false, activation: "relu", innerWidth: 100 },
      "unlike the nearest, llama, its gatedMlp is false",
    ],
    [
      { ...sizes, family: "llama", qkvBias: true },
      "unlike the nearest, llama, its projectionBias is false",
    ],
    [
      { ...sizes, family: "llama", attentionWindows: [0, 9] },
      "unlike the nearest, llama, its attentionWindows is [0,9]",
    ],
    [
      { ...sizes, family: "llama", attentionScale: 1 },
      "unlike the nearest, llama, its attentionScale is 1",
    ],
    [
      { ...sizes, family: "gpt_neo", qkNorm: true, attentionScale: 1, attentionWindows: [0, 9] },
      "unlike the nearest, gpt_neo, its qkNorm is true",
    ],
    [
      {
        ...{ ...sizes, positions: "rotary", rotaryBase: 5e5, qkvBias: false, ownHead: true },
        rotaryScaling: { type: "linear", factor: 2 },
      },
      "unlike the nearest, gpt_neox, its projectionBias is true",
    ],
  ];
  for (const [config, message] of cases) {
    assert.throws(() => toHuggingFaceConfig(config, { endOfText: 5 }), {
      name: "UserError",
      message: "Cannot write config.json as a class of transformers must compute the model: " +
        message,
    });
    const fields = toCheckpointConfig(config, { endOfText: 5, endIds: [5, 7], dropout: 0.5 });
    assert.equal(fields.model_type, "toy_transformer");
    assert.deepEqual(parse(fields), config);
    assert.deepEqual(parseEndIds(JSON.stringify(fields), "config.json"), [5, 7]);
  }
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

const ROTARY: GptConfig = {
  ...{ ...CONFIG, positions: "rotary", qkNorm: true },
  rotaryScaling: { type: "linear", factor: 2 },
};
const SMALL_LLAMA: GptConfig = {
  ...{ ...CONFIG, family: "llama", keyHeads: 1, qkNorm: true, attentionWindows: [0, 7] },
  rotaryScaling: {
    ...{ type: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 },
    originalContextLength: 4,
  },
};

/** A case of a small Llama. */
function ofLlama(
  fields: Record<string, unknown>,
  message: string[],
): [GptConfig, Record<string, unknown>, string][] {
  return [[{ ...CONFIG, family: "llama" }, fields, message.join("")]];
}

Deno.test("parseHuggingFaceConfig() refuses the fields of a checkpoint that it does not know", () => {
  const cases: [fields: Record<string, unknown>, message: string][] = [
    [
      { experts: 8 },
      "its fields must be ones that this version knows, and not experts: current value is 8",
    ],
    [{ layers: 1e15 }, "layers must be from 1 to 512: current value is 1000000000000000"],
    [{ keyHeads: "2" }, 'keyHeads must be a whole number: current value is "2"'],
    [{ qkNorm: 1 }, "qkNorm must be true or false: current value is 1"],
    [
      { activation: "toString" },
      'activation must be gelu_new or gelu or relu or relu2 or silu: current value is "toString"',
    ],
    [{ positions: "alibi" }, 'positions must be learned or rotary: current value is "alibi"'],
    [
      { rotaryScaling: { type: "yarn", factor: 2 } },
      'type of rotaryScaling must be known: current value is "yarn"',
    ],
    [
      { rotaryScaling: { type: "llama3", factor: 2, lowFrequencyFactor: "1" } },
      'lowFrequencyFactor of rotaryScaling must be known: current value is "1"',
    ],
  ];
  for (const [fields, message] of cases) {
    assert.throws(() => parse({ ...toCheckpointConfig(ROTARY, { endOfText: 0 }), ...fields }), {
      name: "UserError",
      message: `Cannot load config.json as ${message}`,
    });
  }
});

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
    ...ofLlama({ model_type: "mixtral" }, [
      'model_type must be "gpt2" or "gpt_neo" or "gpt_neox" or "llama" or "mistral" or "qwen3" or ',
      '"toy_transformer": current value is "mixtral"',
    ]),
    ...ofLlama({ num_local_experts: 8 }, [
      "num_local_experts must be null or false or 0: ",
      "current value is 8",
    ]),
    ...ofLlama({ quantization_config: { bits: 4 } }, [
      "quantization_config must be null or false or 0: ",
      'current value is {"bits":4}',
    ]),
    ...["yarn", "dynamic", "longrope"].flatMap((rope_type) =>
      ofLlama({ rope_scaling: null, rope_parameters: { rope_type, factor: 2 } }, [
        "rope_type of rope_parameters must be default, linear or llama3: ",
        `current value is "${rope_type}"`,
      ])
    ),
    ...ofLlama({ rope_scaling: { type: "su", factor: 2 } }, [
      "rope_type of rope_scaling must be default, linear or llama3: ",
      'current value is "su"',
    ]),
    ...ofLlama({ rope_scaling: { full_attention: {} } }, [
      "rope_scaling must be the same for all layers, without full_attention: ",
      'current value is {"full_attention":{}}',
    ]),
    ...ofLlama({ rope_scaling: { type: "linear", factor: "2\x1b" } }, [
      "factor of rope_scaling must be a number: ",
      'current value is "2\\u001b"',
    ]),
    ...ofLlama({ rope_scaling: { type: "linear", factor: 0.5 } }, [
      "the factor of rotaryScaling must be a number of at least 1: ",
      "current value is 0.5",
    ]),
    ...ofLlama({ rope_scaling: [] }, ["rope_scaling must be an object: ", "current value is []"]),
    ...ofLlama({ partial_rotary_factor: 0.5 }, [
      "partial_rotary_factor must be 1 or null: ",
      "current value is 0.5",
    ]),
    ...ofLlama({ attention_bias: 1 }, [
      "attention_bias must be true or false or null: ",
      "current value is 1",
    ]),
    ...ofLlama({ num_key_value_heads: 3 }, [
      "keyHeads must divide heads, 2: ",
      "current value is 3",
    ]),
    ...ofLlama({ num_hidden_layers: 1e15 }, [
      "num_hidden_layers must be from 1 to 512: ",
      "current value is 1000000000000000",
    ]),
    ...ofLlama({ model_type: "mistral", sliding_window: 0 }, [
      "sliding_window must be a positive integer: ",
      "current value is 0",
    ]),
    ...ofLlama({ model_type: "qwen3", layer_types: ["full_attention"] }, [
      "layer_types must say full_attention or sliding_attention for each of 2 layers: ",
      'current value is ["full_attention"]',
    ]),
    ...ofLlama({ model_type: "qwen3", use_sliding_window: true, max_window_layers: "1" }, [
      "max_window_layers must be a whole number: ",
      'current value is "1"',
    ]),
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
    ...[ROTARY, SMALL_LLAMA, { ...SMALL_LLAMA, qkNorm: false, attentionWindows: [7, 7] }]
      .map((config): typeof files[number] => [
        toCheckpointConfig(config, ends),
        (json) => parseHuggingFaceConfig(json, "f.json"),
      ]),
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
