#!/usr/bin/env python3
"""Makes families.safetensors: what PyTorch computes for tiny models of the kinds that are loaded from elsewhere.

Needs torch 1.13 or newer alone:  python3 tests/golden/make_families.py
The models are written out here, in f64; results are stored as f32. For tests/model/families_test.ts.
"""

import json
import math
import os

import torch
import torch.nn.functional as F

from make_golden import gelu, save

V, L, C, LAYERS, HEADS, INNER = 37, 14, 16, 2, 2, 24
B, T = 2, 11
WINDOW = 4
RANK, ALPHA = 3, 5


def random(shape, scale=0.2, mean=0.0):
    return mean + scale * torch.randn(*shape)


def blocks(parameters, linear, is_neo=False):
    parameters["transformer.wte.weight"] = random((V, C), 0.3)
    parameters["transformer.wpe.weight"] = random((L, C))
    for name in [f"h.{i}.ln_{n}" for i in range(LAYERS) for n in (1, 2)] + ["ln_f"]:
        parameters[f"transformer.{name}.weight"] = random((C,), 0.1, 1.0)
        parameters[f"transformer.{name}.bias"] = random((C,))
    for i in range(LAYERS):
        for name, inputs, outputs, bias in linear:
            shape = (outputs, inputs) if is_neo else (inputs, outputs)
            parameters[f"transformer.h.{i}.{name}.weight"] = random(shape)
            if bias:
                parameters[f"transformer.h.{i}.{name}.bias"] = random((outputs,))
    return parameters


def neo():
    config = dict(
        model_type="gpt_neo", vocab_size=V, max_position_embeddings=L, hidden_size=C, num_layers=LAYERS,
        num_heads=HEADS, intermediate_size=None, attention_types=[[["global", "local"], 1]],
        window_size=WINDOW, activation_function="gelu_new", layer_norm_epsilon=1e-5,
    )
    linear = [(f"attn.attention.{n}_proj", C, C, n == "out") for n in ("q", "k", "v", "out")]
    linear += [("mlp.c_fc", C, 4 * C, True), ("mlp.c_proj", 4 * C, C, True)]
    return config, blocks({}, linear, is_neo=True)


def own_head():
    config = dict(
        model_type="gpt2", vocab_size=V, n_positions=L, n_embd=C, n_layer=LAYERS, n_head=HEADS,
        n_inner=INNER, tie_word_embeddings=False, scale_attn_weights=False,
    )
    linear = [
        ("attn.c_attn", C, 3 * C, True), ("attn.c_proj", C, C, True),
        ("mlp.c_fc", C, INNER, True), ("mlp.c_proj", INNER, C, True),
    ]
    return config, blocks({"lm_head.weight": random((V, C), 0.3)}, linear)


def other_functions(model, **fields):
    config, parameters = model
    return config | fields, parameters


ACTIVATIONS = {"gelu_new": gelu, "gelu": F.gelu, "silu": F.silu}


def adapters(config, parameters, targets):
    """Adds adapters, with B as large as A, so that both have gradients."""
    for i in range(LAYERS):
        for target in targets:
            weight = parameters[f"transformer.h.{i}.{target}.weight"]
            outputs, inputs = weight.shape if config["model_type"] == "gpt_neo" else weight.shape[::-1]
            name = f"base_model.model.transformer.h.{i}.{target}"
            parameters[f"{name}.lora_A.weight"] = random((RANK, inputs))
            parameters[f"{name}.lora_B.weight"] = random((outputs, RANK))
    names = sorted({target.split(".")[-1] for target in targets})
    return config | dict(lora=dict(r=RANK, lora_alpha=ALPHA, target_modules=names)), parameters


def forward(config, p, tokens):
    is_neo = config["model_type"] == "gpt_neo"
    length = tokens.shape[1]
    epsilon = config.get("layer_norm_epsilon", 1e-5)
    norm = lambda x, n: F.layer_norm(x, (C,), p[f"transformer.{n}.weight"], p[f"transformer.{n}.bias"], epsilon)
    activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]

    def linear(x, name):
        weight, bias = p[f"transformer.{name}.weight"], p.get(f"transformer.{name}.bias")
        y = x @ (weight.T if is_neo else weight)
        if bias is not None:
            y = y + bias
        adapter = f"base_model.model.transformer.{name}"
        if f"{adapter}.lora_A.weight" in p:
            y = y + ALPHA / RANK * (x @ p[f"{adapter}.lora_A.weight"].T) @ p[f"{adapter}.lora_B.weight"].T
        return y

    heads = lambda x: x.view(x.shape[0], length, HEADS, C // HEADS).transpose(1, 2)
    x = p["transformer.wte.weight"][tokens] + p["transformer.wpe.weight"][:length]
    for i in range(LAYERS):
        a = norm(x, f"h.{i}.ln_1")
        if is_neo:
            q, k, v = (heads(linear(a, f"h.{i}.attn.attention.{n}_proj")) for n in "qkv")
        else:
            q, k, v = (heads(part) for part in linear(a, f"h.{i}.attn.c_attn").split(C, -1))
        scores = q @ k.transpose(-1, -2)
        if not is_neo and config.get("scale_attn_weights", True):
            scores = scores / math.sqrt(C // HEADS)
        if config.get("scale_attn_by_inverse_layer_idx"):
            scores = scores / (i + 1)
        seen = torch.ones(length, length).tril().bool()
        if is_neo and i % 2 == 1:
            seen &= ~torch.ones(length, length).tril(-WINDOW).bool()
        y = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(x.shape)
        x = x + linear(y, f"h.{i}.attn.attention.out_proj" if is_neo else f"h.{i}.attn.c_proj")
        m = activation(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x = x + linear(m, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ p.get("lm_head.weight", p["transformer.wte.weight"]).T


def compute(golden, configs, cases):
    """Adds what PyTorch computes for models that are given as (config, parameters) by name."""
    for case, (config, parameters) in cases.items():
        configs[case] = config
        p = {name: t.float().double().requires_grad_() for name, t in parameters.items()}
        tokens, targets = torch.randint(V, (B, T)), torch.randint(V, (B, T))
        logits = forward(config, p, tokens)
        loss = F.cross_entropy(logits.view(-1, V), targets.view(-1))
        loss.backward()
        found = dict(tokens=tokens, targets=targets, logits=logits, loss=loss)
        text = [5, 17]
        with torch.no_grad():
            while len(text) < L:
                text.append(int(forward(config, p, torch.tensor([text]))[0, -1].argmax()))
        found["greedy"] = torch.tensor(text)
        for name, t in p.items():
            found["file " + name] = t
            if "lora" not in config or "lora_" in name:  # all else is frozen
                found["gradient " + name] = t.grad
        golden |= {f"{case}: {name}": t for name, t in found.items()}


def main():
    golden, configs = {}, {}
    torch.manual_seed(20261125)
    compute(golden, configs, {
        "neo": neo(),
        "own head": own_head(),
        "neo lora": adapters(*neo(), ["attn.attention.q_proj", "attn.attention.v_proj", "mlp.c_fc"]),
        "gpt2 lora": adapters(*own_head(), ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
    })
    torch.manual_seed(20261129)
    compute(golden, configs, {
        "gelu": other_functions(
            own_head(), activation_function="gelu", layer_norm_epsilon=0.01, scale_attn_weights=True,
            scale_attn_by_inverse_layer_idx=True,
        ),
        "neo silu lora": adapters(
            *other_functions(neo(), activation_function="silu", layer_norm_epsilon=0.05), ["mlp.c_fc", "mlp.c_proj"],
        ),
    })
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families.safetensors")
    save(path, golden, {"torch": torch.__version__, "configs": json.dumps(configs)})


if __name__ == "__main__":
    main()
