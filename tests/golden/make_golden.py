#!/usr/bin/env python3
"""Makes gpt.safetensors: what PyTorch computes for a tiny GPT-2, for tests/model/gpt_test.ts.

Needs torch 1.13 or newer alone:  python3 tests/golden/make_golden.py
The model is written out here, in f64, with awkward sizes; results are stored as f32.
"""

import json
import math
import os
import struct

import torch
import torch.nn.functional as F

V, L, C, LAYERS, HEADS = 131, 12, 24, 2, 3
B, T = 3, 11
STEPS, LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 10, 1e-2, (0.9, 0.95), 0.1, 0.25
SMOOTHING = 0.1
IGNORED = -100


def make_parameters():
    parameters = {}

    def normal(name, *shape, scale=0.1):
        parameters[name] = (scale * torch.randn(*shape)).double().requires_grad_()

    def affine(name):
        parameters[name + ".weight"] = (1 + 0.1 * torch.randn(C)).double().requires_grad_()
        normal(name + ".bias", C)

    normal("wte.weight", V, C, scale=0.3)
    normal("wpe.weight", L, C)
    for i in range(LAYERS):
        affine(f"h.{i}.ln_1")
        normal(f"h.{i}.attn.c_attn.weight", C, 3 * C, scale=0.3)
        normal(f"h.{i}.attn.c_attn.bias", 3 * C)
        normal(f"h.{i}.attn.c_proj.weight", C, C, scale=0.2)
        normal(f"h.{i}.attn.c_proj.bias", C)
        affine(f"h.{i}.ln_2")
        normal(f"h.{i}.mlp.c_fc.weight", C, 4 * C, scale=0.2)
        normal(f"h.{i}.mlp.c_fc.bias", 4 * C)
        normal(f"h.{i}.mlp.c_proj.weight", 4 * C, C, scale=0.1)
        normal(f"h.{i}.mlp.c_proj.bias", C)
    affine("ln_f")
    # what is stored is f32: compute from exactly that
    return {k: p.detach().float().double().requires_grad_() for k, p in parameters.items()}


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def forward(p, tokens):
    length = tokens.shape[1]
    norm = lambda x, name: F.layer_norm(x, (C,), p[name + ".weight"], p[name + ".bias"], 1e-5)
    linear = lambda x, name: x @ p[name + ".weight"] + p[name + ".bias"]
    heads = lambda x: x.view(x.shape[0], length, HEADS, C // HEADS).transpose(1, 2)
    hidden = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)

    x = p["wte.weight"][tokens] + p["wpe.weight"][:length]
    for i in range(LAYERS):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = (heads(part) for part in qkv.split(C, dim=2))
        scores = (q @ k.transpose(2, 3) / math.sqrt(C // HEADS)).masked_fill(hidden, -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = x + linear(y, f"h.{i}.attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ p["wte.weight"].T


def loss_of(p, tokens, targets, smoothing=0.0):
    logits = forward(p, tokens).view(-1, V)
    return F.cross_entropy(
        logits, targets.view(-1), ignore_index=IGNORED, label_smoothing=smoothing
    )


def save(path, tensors, metadata):
    header, chunks, at = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        integer = not tensor.is_floating_point()
        data = tensor.detach().to(torch.int64 if integer else torch.float32).contiguous().numpy()
        data = data.astype("<u4" if integer else "<f4").tobytes()
        shape = list(tensor.shape)
        header[name] = {
            "dtype": "U32" if integer else "F32",
            "shape": shape,
            "data_offsets": [at, at + len(data)],
        }
        chunks.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def main():
    torch.manual_seed(20261124)
    p = make_parameters()
    tokens = torch.randint(V, (B, T))
    targets = torch.randint(V, (B, T))
    targets[0, 8:] = IGNORED
    targets[2, 3] = IGNORED
    golden = {name: tensor.clone() for name, tensor in p.items()}
    golden["tokens"] = tokens
    golden["targets"] = targets % 2**32
    golden["targets"][targets == IGNORED] = 0xFFFFFFFF

    golden["logits"] = forward(p, tokens)
    loss = loss_of(p, tokens, targets)
    loss.backward()
    golden["loss"] = loss
    golden["loss smoothed"] = loss_of(p, tokens, targets, SMOOTHING)
    for name, tensor in p.items():
        golden["gradient " + name] = tensor.grad.clone()

    text = [5, 17, 99]
    with torch.no_grad():
        while len(text) < L:
            text.append(int(forward(p, torch.tensor([text]))[0, -1].argmax()))
    golden["greedy"] = torch.tensor(text)

    matrices = [t for t in p.values() if t.dim() == 2]
    vectors = [t for t in p.values() if t.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0}],
        lr=LEARNING_RATE,
        betas=BETAS,
        eps=1e-8,
    )
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(p, tokens, targets)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(p.values()), CLIP))
        optimizer.step()
        losses.append(loss.detach())
    golden["step losses"] = torch.stack(losses)
    golden["step norms"] = torch.stack(norms)
    for name, tensor in p.items():
        golden["after " + name] = tensor

    config = dict(
        vocabularySize=V, contextLength=L, width=C, layers=LAYERS, heads=HEADS,
        batchSize=B, sequenceLength=T, learningRate=LEARNING_RATE, beta1=BETAS[0], beta2=BETAS[1],
        weightDecay=WEIGHT_DECAY, gradientClip=CLIP, labelSmoothing=SMOOTHING,
    )
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpt.safetensors")
    save(path, golden, {"torch": torch.__version__, "config": json.dumps(config)})


if __name__ == "__main__":
    main()
