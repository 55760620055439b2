#!/usr/bin/env python3
"""Makes rotations.json: frequencies, cosines and sines of transformers' Llama. For tests/kernels/rope_test.ts.

Made with torch 2.13.0 and transformers 5.18.0:  python3 tests/golden/make_rotations.py
"""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

# our names of the fields, and transformers'
FIELDS = {
    "type": "rope_type",
    "factor": "factor",
    "lowFrequencyFactor": "low_freq_factor",
    "highFrequencyFactor": "high_freq_factor",
    "originalContextLength": "original_max_position_embeddings",
}
LLAMA3 = {
    "type": "llama3",
    "factor": 32.0,
    "lowFrequencyFactor": 1.0,
    "highFrequencyFactor": 4.0,
    "originalContextLength": 8192,
}
SHORT = {**LLAMA3, "factor": 8.0, "lowFrequencyFactor": 2.0, "originalContextLength": 256}
CASES = [
    (64, 10000.0, None),
    (12, 500000.0, None),
    (20, 10000.0, {"type": "linear", "factor": 2.5}),
    (64, 500000.0, LLAMA3),
    (24, 1000.0, SHORT),
]
POSITIONS = [0, 1, 77, 1023]


def case(size, base, scaling):
    fields = {FIELDS[name]: value for name, value in (scaling or {"type": "default"}).items()}
    config = LlamaConfig(
        hidden_size=2 * size,
        num_attention_heads=2,
        head_dim=size,
        max_position_embeddings=16384,
        rope_parameters={"rope_theta": base, **fields},
    )
    embedding = LlamaRotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1), torch.tensor([POSITIONS]))
    return {
        "headSize": size,
        "base": base,
        **({"scaling": scaling} if scaling else {}),
        "frequencies": embedding.inv_freq.tolist(),
        "cosines": cos[0, :, : size // 2].tolist(),
        "sines": sin[0, :, : size // 2].tolist(),
    }


torch.set_num_threads(1)
rotations = {"positions": POSITIONS, "cases": [case(*c) for c in CASES]}
Path(__file__).with_name("rotations.json").write_text(json.dumps(rotations) + "\n")
