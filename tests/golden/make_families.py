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


def llama(**fields):
    """A Llama, or with norms of queries and keys a Qwen3: rotary positions, gated MLP, few heads of keys."""
    config = dict(
        model_type="llama", vocab_size=V, max_position_embeddings=L, hidden_size=C, num_hidden_layers=LAYERS,
        intermediate_size=INNER, hidden_act="silu", rms_norm_eps=1e-3,
    ) | fields
    NH, KH, HS = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    parameters = {"model.embed_tokens.weight": random((V, C), 0.3), "model.norm.weight": random((C,), 0.1, 1.0)}
    if not config["tie_word_embeddings"]:
        parameters["lm_head.weight"] = random((V, C), 0.3)
    for i in range(LAYERS):
        block = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            parameters[f"{block}{name}.weight"] = random((C,), 0.1, 1.0)
        if config["model_type"] == "qwen3":
            for part in "qk":
                parameters[f"{block}self_attn.{part}_norm.weight"] = random((HS,), 0.1, 1.0)
        for name, outputs, inputs in [
            ("self_attn.q_proj", NH * HS, C), ("self_attn.k_proj", KH * HS, C), ("self_attn.v_proj", KH * HS, C),
            ("self_attn.o_proj", C, NH * HS),
            ("mlp.gate_proj", INNER, C), ("mlp.up_proj", INNER, C), ("mlp.down_proj", C, INNER),
        ]:
            parameters[f"{block}{name}.weight"] = random((outputs, inputs), 0.3)
            if config.get("attention_bias" if "attn" in name else "mlp_bias"):
                parameters[f"{block}{name}.bias"] = random((outputs,))
    return config, parameters


def neox(**fields):
    """A GPT-NeoX without parallel branches, whose heads are rotated as a whole."""
    config = dict(
        model_type="gpt_neox", vocab_size=V, max_position_embeddings=L, hidden_size=C, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=INNER, hidden_act="gelu_new", layer_norm_eps=1e-3,
        use_parallel_residual=False, attention_bias=True, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=1.0),
    ) | fields
    parameters = {"gpt_neox.embed_in.weight": random((V, C), 0.3), "embed_out.weight": random((V, C), 0.3)}
    norms = [f"layers.{i}.{n}_layernorm" for i in range(LAYERS) for n in ("input", "post_attention")]
    for name in [*norms, "final_layer_norm"]:
        parameters[f"gpt_neox.{name}.weight"] = random((C,), 0.1, 1.0)
        parameters[f"gpt_neox.{name}.bias"] = random((C,))
    for i in range(LAYERS):
        for name, outputs, inputs in [
            ("attention.query_key_value", 3 * C, C), ("attention.dense", C, C),
            ("mlp.dense_h_to_4h", INNER, C), ("mlp.dense_4h_to_h", C, INNER),
        ]:
            parameters[f"gpt_neox.layers.{i}.{name}.weight"] = random((outputs, inputs), 0.3)
            parameters[f"gpt_neox.layers.{i}.{name}.bias"] = random((outputs,))
    return config, parameters


def other_functions(model, **fields):
    config, parameters = model
    return config | fields, parameters


ACTIVATIONS = {"gelu_new": gelu, "gelu": F.gelu, "silu": F.silu}


def adapters(config, parameters, targets):
    """Adds adapters, with B as large as A, so that both have gradients."""
    for i in range(LAYERS):
        for target in targets:
            block = "model.layers" if "head_dim" in config else "transformer.h"
            block = "gpt_neox.layers" if config["model_type"] == "gpt_neox" else block
            weight = parameters[f"{block}.{i}.{target}.weight"]
            outputs, inputs = weight.shape[::-1] if config["model_type"] == "gpt2" else weight.shape
            name = f"base_model.model.{block}.{i}.{target}"
            parameters[f"{name}.lora_A.weight"] = random((RANK, inputs))
            parameters[f"{name}.lora_B.weight"] = random((outputs, RANK))
    names = sorted({target.split(".")[-1] for target in targets})
    return config | dict(lora=dict(r=RANK, lora_alpha=ALPHA, target_modules=names)), parameters


def rotated(config, x):
    """Rotates the components of heads [B,NH,T,HS] by angles that grow with the position."""
    rope, half, length = config["rope_parameters"], x.shape[3] // 2, x.shape[2]
    frequencies = rope["rope_theta"] ** -(torch.arange(half).double() / half)
    if rope["rope_type"] == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        frequencies = frequencies * (kept + (1 - kept) / rope["factor"])
    angles = torch.arange(length)[:, None] * frequencies
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def forward_llama(config, p, tokens):
    length, HS = tokens.shape[1], config["head_dim"]

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * p[f"model.{name}.weight"]

    def linear(x, name):
        y = x @ p[f"model.{name}.weight"].T + p.get(f"model.{name}.bias", 0)
        adapter = f"base_model.model.model.{name}"
        if f"{adapter}.lora_A.weight" in p:
            y = y + ALPHA / RANK * (x @ p[f"{adapter}.lora_A.weight"].T) @ p[f"{adapter}.lora_B.weight"].T
        return y

    x = p["model.embed_tokens.weight"][tokens]
    for i in range(LAYERS):
        block, a = f"layers.{i}.", norm(x, f"layers.{i}.input_layernorm")
        q, k, v = (
            linear(a, f"{block}self_attn.{part}_proj").view(*tokens.shape, -1, HS).transpose(1, 2) for part in "qkv"
        )
        if config["model_type"] == "qwen3":
            q, k = norm(q, f"{block}self_attn.q_norm"), norm(k, f"{block}self_attn.k_norm")
        q, k = rotated(config, q), rotated(config, k)
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
        seen = torch.ones(length, length).tril().bool()
        if config.get("use_sliding_window") and i >= config["max_window_layers"]:
            seen &= ~torch.ones(length, length).tril(-config["sliding_window"]).bool()
        scores = (q @ k.transpose(-1, -2) / math.sqrt(HS)).masked_fill(~seen, -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{block}self_attn.o_proj")
        m = norm(x, f"{block}post_attention_layernorm")
        m = ACTIVATIONS[config["hidden_act"]](linear(m, f"{block}mlp.gate_proj")) * linear(m, f"{block}mlp.up_proj")
        x = x + linear(m, f"{block}mlp.down_proj")
    return norm(x, "norm") @ p.get("lm_head.weight", p["model.embed_tokens.weight"]).T


def forward_neox(config, p, tokens):
    def norm(x, name):
        weight, bias = p[f"gpt_neox.{name}.weight"], p[f"gpt_neox.{name}.bias"]
        return F.layer_norm(x, (C,), weight, bias, config["layer_norm_eps"])

    def linear(x, name):
        y = x @ p[f"gpt_neox.{name}.weight"].T + p[f"gpt_neox.{name}.bias"]
        adapter = f"base_model.model.gpt_neox.{name}"
        if f"{adapter}.lora_A.weight" in p:
            y = y + ALPHA / RANK * (x @ p[f"{adapter}.lora_A.weight"].T) @ p[f"{adapter}.lora_B.weight"].T
        return y

    x, length = p["gpt_neox.embed_in.weight"][tokens], tokens.shape[1]
    for i in range(LAYERS):
        block = f"layers.{i}."
        qkv = linear(norm(x, f"{block}input_layernorm"), f"{block}attention.query_key_value")
        q, k, v = qkv.view(*tokens.shape, HEADS, 3, C // HEADS).permute(3, 0, 2, 1, 4)  # [3,B,NH,T,HS]
        q, k = rotated(config, q), rotated(config, k)
        seen = torch.ones(length, length).tril().bool()
        scores = (q @ k.transpose(-1, -2) / math.sqrt(C // HEADS)).masked_fill(~seen, -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{block}attention.dense")
        m = linear(norm(x, f"{block}post_attention_layernorm"), f"{block}mlp.dense_h_to_4h")
        x = x + linear(ACTIVATIONS[config["hidden_act"]](m), f"{block}mlp.dense_4h_to_h")
    return norm(x, "final_layer_norm") @ p["embed_out.weight"].T


def forward(config, p, tokens):
    if config["model_type"] == "gpt_neox":
        return forward_neox(config, p, tokens)
    if "head_dim" in config:
        return forward_llama(config, p, tokens)
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


def step_losses(config, parameters, tokens, targets):
    """The losses before each of ten steps of AdamW on one batch."""
    p = {name: t.detach().clone().requires_grad_() for name, t in parameters.items()}
    trained = [t for name, t in p.items() if "lora" not in config or "lora_" in name]
    optimizer = torch.optim.AdamW(
        [
            dict(params=[t for t in trained if t.dim() == 2], weight_decay=0.1),
            dict(params=[t for t in trained if t.dim() == 1], weight_decay=0),
        ],
        lr=1e-2, betas=(0.9, 0.98),
    )
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(config, p, tokens).view(-1, V), targets.view(-1))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


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
        if "head_dim" in config:
            found["step losses"] = step_losses(config, p, tokens, targets)
        golden |= {f"{case}: {name}": t.clone() for name, t in found.items()}


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
    torch.manual_seed(20261130)
    compute(golden, configs, {
        "llama": llama(
            num_attention_heads=4, num_key_value_heads=1, head_dim=4, attention_bias=True, mlp_bias=True,
            tie_word_embeddings=False, rope_parameters=dict(
                rope_type="llama3", rope_theta=100.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0,
                original_max_position_embeddings=12,
            ),
        ),
        "qwen3 lora": adapters(
            *llama(
                model_type="qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                tie_word_embeddings=True, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1,
                rope_parameters=dict(rope_type="default", rope_theta=100.0),
            ),
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"],
        ),
    })
    torch.manual_seed(20261201)
    targets = ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h"]
    compute(golden, configs, {"neox lora": adapters(*neox(), targets)})
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families.safetensors")
    save(path, golden, {"torch": torch.__version__, "configs": json.dumps(configs)})


if __name__ == "__main__":
    main()
