#!/usr/bin/env python3
"""Makes adapters.json: which layers PEFT gives adapters, with which ranks and scales, for some of its configurations;
and adapter_model.bin: adapters as PEFT writes them without safetensors.

Needs torch, transformers and peft:  python3 tests/golden/make_adapters.py
For tests/model/files/lora_test.ts and tests/generate/source_test.ts.
"""

import json
import os
import tempfile
import warnings

import peft
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoConfig, GPTNeoXConfig, Qwen3Config

MODELS = {
    "gpt2": GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0),
    "gpt_neo": GPTNeoConfig(
        vocab_size=13, max_position_embeddings=8, hidden_size=8, num_layers=2, num_heads=2, bos_token_id=0,
        eos_token_id=0, attention_types=[[["global", "local"], 1]],
    ),
    "gpt_neox": GPTNeoXConfig(
        vocab_size=13, max_position_embeddings=8, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=0, use_parallel_residual=False, rotary_pct=1.0,
    ),
    "llama": Qwen3Config(
        vocab_size=13, max_position_embeddings=8, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, bos_token_id=0, eos_token_id=0,
    ),
}

CASES = [
    ("gpt2", dict(target_modules=["c_attn"])),
    ("gpt2", dict(target_modules=["c_attn", "c_fc"], use_rslora=True)),
    ("gpt2", dict(target_modules=["transformer.h.0.attn.c_attn", "h.2.mlp.c_proj"])),
    ("gpt2", dict(target_modules=["attn.c_proj", "q_proj"])),
    ("gpt2", dict(target_modules="all-linear")),
    ("gpt2", dict(target_modules=r".*\.h\.(?:0|2)\.(attn|mlp)\.c_proj")),
    ("gpt2", dict(target_modules=r"(?P<a>transformer)\.h\.\d+\.mlp\.c_fc\Z")),
    ("gpt2", dict(target_modules=["c_proj"], exclude_modules=["mlp.c_proj"])),
    ("gpt2", dict(target_modules=["c_proj", "c_fc"], exclude_modules=r".*\.h\.1\..*")),
    ("gpt2", dict(target_modules=["c_proj"], exclude_modules=["transformer.h.0.mlp.c_proj"])),
    ("gpt2", dict(target_modules=["c_attn"], layers_to_transform=1)),
    ("gpt2", dict(target_modules=["c_attn", "transformer.h.1.mlp.c_fc"], layers_to_transform=[0, 2])),
    ("gpt2", dict(target_modules=["c_attn"], layers_to_transform=[0], layers_pattern="h")),
    ("gpt2", dict(target_modules=["c_attn"], layers_to_transform=[2], layers_pattern=["blocks", "h"])),
    ("gpt2", dict(
        target_modules=["c_attn", "c_proj"], rank_pattern={"h.0.attn.c_attn": 2, "c_proj": 3},
        alpha_pattern={"transformer.h.1.attn.c_attn": 32, r"mlp\.c_.*": 5},
    )),
    ("gpt2", dict(
        target_modules=["c_attn", "c_fc"], use_rslora=True, rank_pattern={r"h\.[12]\.attn\.c_attn": 9, "c_attn": 2},
        alpha_pattern={"c_attn|c_fc": 3},
    )),
    ("gpt2", dict(target_modules=["c_attn"], rank_pattern={"attn": 2, "_attn": 3, "c_att": 5})),
    ("gpt_neo", dict(target_modules=["q_proj", "v_proj"])),
    ("gpt_neo", dict(target_modules="all-linear", rank_pattern={"out_proj": 2})),
    ("gpt_neo", dict(target_modules=r".*attention\.[qk]_proj", alpha_pattern={"k_proj": 2.5})),
    ("gpt_neox", dict(target_modules="all-linear", rank_pattern={"attention.dense": 2})),
    ("gpt_neox", dict(target_modules=["query_key_value"], layers_to_transform=[1])),
    ("llama", dict(target_modules="all-linear", rank_pattern={"layers.1.self_attn.o_proj": 2, "mlp.*": 3})),
    ("llama", dict(target_modules=["q_proj", "model.layers.1.mlp.gate_proj"], layers_to_transform=[0])),
    ("llama", dict(target_modules=["k_proj", "down_proj"], layers_to_transform=1, layers_pattern="layers")),
]


def main():
    warnings.simplefilter("ignore")
    results = []
    for family, fields in CASES:
        adapted = lambda config: get_peft_model(AutoModelForCausalLM.from_config(MODELS[family]), config)
        with tempfile.TemporaryDirectory() as directory:
            model = adapted(LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **fields))
            model.peft_config["default"].base_model_name_or_path = "base"
            model.save_pretrained(directory)
            with open(os.path.join(directory, "adapter_config.json")) as file:
                written = json.load(file)
            # as whoever loads it finds it: the file has its patterns in another order
            model = adapted(LoraConfig.from_pretrained(directory))
        layers = {
            name.removeprefix("base_model.model."): [module.r["default"], module.scaling["default"]]
            for name, module in model.named_modules() if hasattr(module, "lora_A")
        }
        if isinstance(written["target_modules"], list):
            written["target_modules"].sort()  # a set there
        results.append(dict(family=family, given=fields, config=written, layers=layers))
    here = os.path.dirname(os.path.abspath(__file__))
    torch.manual_seed(20261129)
    config = LoraConfig(r=2, target_modules=["h.0.attn.c_attn", "h.1.attn.c_attn"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_config(MODELS["gpt2"]), config)
    torch.save(get_peft_model_state_dict(model), os.path.join(here, "adapter_model.bin"))
    with open(os.path.join(here, "adapters.json"), "w") as file:
        lines = ",\n".join(json.dumps(result) for result in results)
        file.write(f'{{"peft": "{peft.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
