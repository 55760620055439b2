import assert from "node:assert/strict";
import type { Family, GptConfig } from "../../../model/config.ts";
import {
  parseAdapterConfig,
  storedAdapters,
  toAdapterConfig,
  trainableLora,
} from "../../../model/files/lora.ts";
import { nameInFile } from "../../../model/files/tensor_names.ts";

// what tests/golden/make_adapters.py found PEFT to do
const golden = JSON.parse(
  Deno.readTextFileSync(new URL("../../golden/adapters.json", import.meta.url)),
) as {
  cases: {
    family: Family;
    given: Record<string, unknown>;
    config: Record<string, unknown>;
    layers: Record<string, [rank: number, scale: number]>;
  }[];
};

const GPT2: GptConfig = { vocabularySize: 13, contextLength: 8, width: 8, layers: 3, heads: 2 };
const CONFIGS: Record<Family, GptConfig> = {
  gpt2: GPT2,
  gpt_neo: { ...GPT2, layers: 2, family: "gpt_neo", attentionScale: 1, attentionWindows: [0, 256] },
  gpt_neox: { ...GPT2, layers: 2, family: "gpt_neox", innerWidth: 12 },
  llama: { ...GPT2, layers: 2, family: "llama", keyHeads: 1, qkNorm: true, innerWidth: 12 },
};

/** Ranks and scales of adapters by the names of their layers. */
function layersOf(
  family: Family,
  fields: object,
): Record<string, [rank: number, scale: number]> {
  const { lora } = parseAdapterConfig(JSON.stringify(fields), "adapter_config.json");
  return Object.fromEntries(
    storedAdapters(CONFIGS[family], lora).map(({ layer, module, rank, scale }) => [
      nameInFile(`h.${layer}.${module.name}`, family),
      [rank, scale],
    ]),
  );
}

for (const { family, given, config, layers } of golden.cases) {
  Deno.test(`storedAdapters() of ${family} with ${JSON.stringify(given)} are those of PEFT`, () => {
    assert.deepEqual(layersOf(family, config), layers);
  });
}

const [{ config: PEFT }] = golden.cases as [(typeof golden.cases)[number]];

Deno.test("parseAdapterConfig() names the field and the value that are not supported", () => {
  const refused: [fields: Record<string, unknown>, message: string][] = [
    [{ peft_type: "IA3" }, 'peft_type must be LORA: current value is "IA3"'],
    [{ task_type: "SEQ_CLS" }, 'task_type must be CAUSAL_LM or null: current value is "SEQ_CLS"'],
    [{ bias: "lora_only" }, 'bias must be none: current value is "lora_only"'],
    [{ use_dora: true }, "use_dora must be null or false: current value is true"],
    [{ lora_bias: true }, "lora_bias must be null or false: current value is true"],
    [{ use_qalora: true }, "use_qalora must be null or false: current value is true"],
    [
      { modules_to_save: ["lm_head"] },
      'modules_to_save must be null or false: current value is ["lm_head"]',
    ],
    [
      { trainable_token_indices: [1] },
      "trainable_token_indices must be null or false: current value is [1]",
    ],
    [
      { layer_replication: [[0, 1]] },
      "layer_replication must be null or false: current value is [[0,1]]",
    ],
    [
      { of_tomorrow: { "a\x1b": 1 } },
      'of_tomorrow must be null or false: current value is {"a\\u001b":1}',
    ],
    [
      { init_lora_weights: "pissa" },
      "init_lora_weights must be true, false, gaussian, eva or orthogonal: " +
      'current value is "pissa"',
    ],
    [
      { target_modules: "(c_attn" },
      'target_modules must be names of layers or a regular expression: current value is "(c_attn"',
    ],
    [
      { target_modules: null },
      "target_modules must be names of layers or a regular expression: current value is null",
    ],
    [
      { rank_pattern: { "c_attn(": 2 } },
      'rank_pattern must be numbers by regular expressions: current value is {"c_attn(":2}',
    ],
    [
      { layers_to_transform: ["0"] },
      'layers_to_transform must be numbers of blocks or null: current value is ["0"]',
    ],
    [
      { target_modules: ".*c_attn", layers_to_transform: [0] },
      "layers_to_transform must be null if target_modules is a string: current value is [0]",
    ],
    [
      { layers_pattern: "h" },
      'layers_pattern must be null without layers_to_transform: current value is "h"',
    ],
  ];
  for (const [fields, message] of refused) {
    const json = JSON.stringify({ ...PEFT, ...fields });
    assert.throws(() => parseAdapterConfig(json, "adapter_config.json"), {
      name: "UserError",
      message: `Cannot load adapter_config.json as ${message}`,
    });
  }
});

Deno.test("storedAdapters() refuses targets that are no linear layers of blocks", () => {
  const refused: [target_modules: unknown, message: RegExp][] = [
    [
      ["c_attn", "wte"],
      /linear layers of blocks: transformer\.wte is one of .* \["c_attn","wte"\]$/,
    ],
    [["lm_head"], /lm_head is one of the current targets \["lm_head"\]$/],
    [".*(c_attn|wpe)", /transformer\.wpe is one of the current targets "\.\*\(c_attn\|wpe\)"$/],
    [["q_proj"], /must be linear layers of the model, which are .*: current targets are q_proj$/],
    ["c_attn", /current targets are c_attn$/], // a regular expression matches whole names
  ];
  for (const [target_modules, message] of refused) {
    assert.throws(() => layersOf("gpt2", { ...PEFT, target_modules }), {
      name: "UserError",
      message,
    });
  }
});

Deno.test("storedAdapters() ends when a regular expression would backtrack for ever", () => {
  for (const field of ["target_modules", "rank_pattern"]) {
    const expression = "(([a-z.0-9]+)+)+!";
    const value = field === "rank_pattern" ? { [expression]: 4 } : expression;
    assert.throws(() => layersOf("gpt2", { ...PEFT, [field]: value }), {
      name: "UserError",
      message: /expressions must backtrack less: it takes more than \d+ ms to match .*\+!"/,
    });
  }
});

Deno.test("trainableLora() is what toAdapterConfig() describes, and refuses other adapters", () => {
  const lora = { rank: 3, alpha: 6, targets: ["c_attn"] };
  const written = toAdapterConfig({ ...GPT2, lora }, { base: "base" });
  const read = (fields: object) =>
    trainableLora(
      parseAdapterConfig(JSON.stringify({ ...written, ...fields }), "f").lora,
      "runs/a",
    );
  assert.deepEqual(read({}), lora);
  const refused: [fields: object, message: RegExp][] = [
    [{ use_rslora: true }, /runs\/a as .*: current rankStabilized are true$/],
    [{ rank_pattern: { c_attn: 2 } }, /current ranks are {"c_attn":2}$/],
    [{ target_modules: ".*c_attn" }, /current targets are "\.\*c_attn"$/],
  ];
  for (const [fields, message] of refused) {
    assert.throws(() => read(fields), { name: "UserError", message });
  }
});
