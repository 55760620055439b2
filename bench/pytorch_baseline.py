#!/usr/bin/env python3
"""Times the models of `deno task bench` in PyTorch, for bench/results/pytorch_NAME.json.

    python3 bench/pytorch_baseline.py [--json FILE] [--no-compile]

Needs torch with CUDA, and transformers for generation; no network. Progress is printed to stderr, and
the last line of stdout is the report as JSON. With --json the file is written after each part, so that
an interrupted run keeps its results. Dropout is 0, as in `deno task bench`.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCABULARY_SIZE = 50257
MODELS = {
    "mini 32x128": dict(width=256, layers=4, heads=8, batch=32, length=128),
    "gpt2 8x1024": dict(width=768, layers=12, heads=12, batch=8, length=1024),
}
MODES = {
    "eager fp16 autocast": dict(dtype=torch.float16),
    "eager fp32": dict(dtype=None),
    "compile bf16": dict(dtype=torch.bfloat16, compiled=True),
}
# context length of the model that generates, as in deno task bench
GENERATION_CONTEXT = 512


class Block(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.mlp_proj = nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """GPT-2 whose head is tied to the token embedding; returns the mean loss."""

    def __init__(self, width, layers, heads, length):
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY_SIZE, width)
        self.wpe = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, layers, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, VOCABULARY_SIZE), targets.view(-1))


def sample_tokens(batch, length, device):
    """Random tokens whose probability falls as one over their rank, as in bench/text.ts."""
    draws = torch.rand(batch, length, device=device)
    tokens = torch.exp(draws * math.log(VOCABULARY_SIZE)).long() - 1
    return tokens.clamp(0, VOCABULARY_SIZE - 1)


def intervals_ms(action, count):
    """Milliseconds between consecutive actions, by events on the GPU."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        action()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(events, events[1:])]


def train_step(model, mode, device="cuda", warmup=8, steps=30):
    """Times a training step: forward, backward, clipping, AdamW."""
    dtype, compiled = mode["dtype"], mode.get("compiled", False)
    batch, length = model["batch"], model["length"]
    gpt = Gpt(model["width"], model["layers"], model["heads"], length).to(device)
    decayed = [p for p in gpt.parameters() if p.dim() == 2]
    others = [p for p in gpt.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-4,
        betas=(0.9, 0.95),
        **({"fused": True} if compiled else {}),
    )
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    forward = torch.compile(gpt) if compiled else gpt
    data = [
        (sample_tokens(batch, length, device), sample_tokens(batch, length, device))
        for _ in range(4)
    ]
    turn = 0

    def step():
        nonlocal turn
        tokens, targets = data[turn % len(data)]
        turn += 1
        with torch.autocast(device, dtype=dtype or torch.float16, enabled=dtype is not None):
            loss = forward(tokens, targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss

    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first_ms = 1e3 * (time.perf_counter() - start)
    for _ in range(warmup):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    ms = statistics.median(intervals_ms(step, steps))
    return {
        "ms": ms,
        "tokensPerSecond": 1e3 * batch * length / ms,
        "peakBytes": torch.cuda.max_memory_allocated(),
        "firstStepMs": first_ms,
    }


def per_call_ms(action, repeats, samples=9):
    """Milliseconds of an action: the median over samples of the mean over repeats, after a warm-up."""

    def many():
        for _ in range(repeats):
            action()

    many()
    return statistics.median(intervals_ms(many, samples)) / repeats


def matmul(layout, side=4096):
    a, b = torch.randn(side, side, device="cuda"), torch.randn(side, side, device="cuda")
    a = a.T if layout[0] == "T" else a
    b = b.T if layout[1] == "T" else b
    y = torch.empty(side, side, device="cuda")
    ms = per_call_ms(lambda: torch.matmul(a, b, out=y), repeats=5)
    return {"ms": ms, "flopsPerSecond": 2 * side**3 / ms * 1e3}


def copy(megabytes=1024):
    x = torch.randn(megabytes * 2**18, device="cuda")
    y = torch.empty_like(x)
    ms = per_call_ms(lambda: y.copy_(x), repeats=10)
    return {"ms": ms, "bytesPerSecond": 2 * x.numel() * 4 / ms * 1e3}


def generate(streams, tokens=256):
    """Times mini in Hugging Face transformers, in fp16, with key-value cache and sampling."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = MODELS["mini 32x128"]
    config = GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=GENERATION_CONTEXT,
        n_embd=model["width"],
        n_layer=model["layers"],
        n_head=model["heads"],
    )
    gpt = GPT2LMHeadModel(config).half().to("cuda").eval()
    gpt.generation_config.eos_token_id = None  # no text ends early
    gpt.generation_config.pad_token_id = 0
    prompt = torch.full((streams, 1), VOCABULARY_SIZE - 1, device="cuda")

    def run(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.inference_mode():
            y = gpt.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=count,
                do_sample=True,
                temperature=0.8,
                top_k=0,
                top_p=0.95,
                use_cache=True,
            )
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        assert y.shape == (streams, 1 + count), y.shape
        return seconds

    run(16)
    seconds = statistics.median(run(tokens) for _ in range(3))
    return {"ms": 1e3 * seconds, "tokensPerSecond": streams * tokens / seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", help="write the results to this file after each part")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")  # fp32 is fp32: no tf32
    torch.manual_seed(0)

    parts = [(f"cublas fp32 {layout} 4096", lambda l=layout: matmul(l)) for layout in ("NN", "NT", "TN")]
    parts.append(("copy f32 1024 MiB", copy))
    parts += [(f"generate {n} stream{'s' * (n > 1)}", lambda n=n: generate(n)) for n in (1, 64)]
    # parts that take long to compile come last
    parts += [
        (f"train step {name}, {mode}", lambda m=model, d=settings: train_step(m, d))
        for mode, settings in MODES.items()
        if not (settings.get("compiled") and options.no_compile)
        for name, model in MODELS.items()
    ]
    report = {
        # without the path of --json
        "command": "python3 bench/pytorch_baseline.py" + (" --no-compile" if options.no_compile else ""),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": {"name": torch.cuda.get_device_name()},
        "results": [],
        "failures": [],
    }
    try:
        import transformers

        report["transformers"] = transformers.__version__
    except ImportError:
        pass
    for name, part in parts:
        try:
            result = {"name": name, **part()}
            report["results"].append(result)
            print(json.dumps(result), file=sys.stderr, flush=True)
        except Exception as error:  # the other parts still run
            message = f"{type(error).__name__}: {error}".split("\n")[0]
            report["failures"].append({"name": name, "message": message})
            print(f"{name} failed: {message}", file=sys.stderr, flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        if options.json:
            with open(options.json, "w") as file:
                json.dump(report, file, indent=2)
                file.write("\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
