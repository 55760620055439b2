#!/usr/bin/env python3
"""Opens a checkpoint with Hugging Face transformers and continues a text greedily.

    python3 tests/golden/check_transformers.py CHECKPOINT "Once upon a time" 40

Prints the text, to be compared with
    deno task generate --checkpoint CHECKPOINT --temperature 0 --max-new-tokens 40 "Once upon a time"
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path, prompt, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(path)
model, report = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
print(type(model).__name__, type(tokenizer).__name__, report, file=sys.stderr)
ids = tokenizer(prompt, return_tensors="pt").input_ids
with torch.no_grad():
    while ids.shape[1] < model.config.n_positions and count > 0:
        logits = model(ids).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        count -= 1
        if ids[0, -1] == tokenizer.eos_token_id:
            ids = ids[:, :-1]
            break
print(tokenizer.decode(ids[0]))
