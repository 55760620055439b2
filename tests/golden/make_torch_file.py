#!/usr/bin/env python3
"""Makes torch_file.bin: a table of tensors as torch.save() writes it, for tests/model/files/torch_file_test.ts.

    python3 tests/golden/make_torch_file.py

Made with torch 1.13; later versions add files to the archive, which are not read.
"""

from collections import OrderedDict
from pathlib import Path

import torch

model = torch.nn.Module()
model.wte = torch.nn.Embedding(3, 4)
model.wte.weight.data = torch.arange(12.0).reshape(3, 4) / 8
model.lm_head = torch.nn.Linear(4, 3, bias=False)
model.lm_head.weight = model.wte.weight  # one storage
model.register_buffer("mask", torch.ones(3, 3).tril().bool())

table = OrderedDict(model.state_dict())  # with its _metadata, an attribute
table["half"] = torch.tensor([1.5, -2.0], dtype=torch.float16)
table["brain"] = torch.tensor([[1.5], [-2.0]], dtype=torch.bfloat16)
table["rows"] = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)[1:3]  # a part of a storage
table["scalar"] = torch.tensor(-1e9)
table["parameter"] = torch.nn.Parameter(torch.zeros(2, 0))
table["bytes"] = torch.tensor([7, 255], dtype=torch.uint8)
table._metadata = model.state_dict()._metadata

torch.save(table, Path(__file__).with_name("torch_file.bin"))
