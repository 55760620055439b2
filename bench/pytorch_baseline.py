#!/usr/bin/env python3
"""Times the models of `deno task bench` in PyTorch, for bench/results/pytorch_NAME.json.

    python3 bench/pytorch_baseline.py [--json FILE] [--no-compile] [--filter TEXT...]
    torchrun --standalone --nproc-per-node 2 bench/pytorch_baseline.py --ddp [--json FILE] [--filter TEXT...]

With --ddp it times steps of DistributedDataParallel over NCCL instead, a GPU for each rank, and those of rank 0
alone beside them, for bench/results/ddp_NAME.json.

Needs torch with CUDA, and transformers for generation; no network. Progress is printed to stderr, and
the last line of stdout is the report as JSON. With --json the file is written after each part, so that
an interrupted run keeps its results: parts that take long to compile come last. Dropout is 0, as in
`deno task bench`.
"""

import argparse
import gc
import json
import math
import os
import statistics
import sys
import time
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCABULARY_SIZE = 50257
SMOLLM2_VOCABULARY_SIZE = 49152
MINI = dict(width=256, layers=4, heads=8)
GPT2 = dict(width=768, layers=12, heads=12)
EAGER = {
    "eager fp16 autocast": dict(dtype=torch.float16),
    "eager fp32": dict(dtype=None),
}
# CUDA graphs, and a vocabulary whose products have whole tiles
BEST = {
    "compile reduce-overhead bf16 V 50304": dict(
        dtype=torch.bfloat16, compiled="reduce-overhead", vocabulary_size=50304
    ),
}
COMPILED = {"compile bf16": dict(dtype=torch.bfloat16, compiled="default")}
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

    def __init__(self, width, layers, heads, length, vocabulary_size=VOCABULARY_SIZE):
        super().__init__()
        self.wte = nn.Embedding(vocabulary_size, width)
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
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def smollm2(length):
    """The shape of SmolLM2-135M in Hugging Face transformers, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=SMOLLM2_VOCABULARY_SIZE,
        max_position_embeddings=length,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    )
    base = {"rope_type": "default", "rope_theta": 100000.0}
    if hasattr(config, "rope_parameters"):  # since version 5
        config.rope_parameters = base
    else:
        config.rope_theta = base["rope_theta"]
    return LlamaForCausalLM(config)


class Smollm2(nn.Module):
    """`smollm2()` that returns the mean loss."""

    def __init__(self, length):
        super().__init__()
        self.llama = smollm2(length)

    def forward(self, tokens, targets):
        logits = self.llama(input_ids=tokens, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def sample_tokens(batch, length, vocabulary_size, device):
    """Random tokens whose probability falls as one over their rank, as in bench/text.ts."""
    draws = torch.rand(batch, length, device=device)
    tokens = torch.exp(draws * math.log(vocabulary_size)).long() - 1
    return tokens.clamp(0, vocabulary_size - 1)


def intervals_ms(action, count):
    """Milliseconds between consecutive actions, by events on the GPU."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        action()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(events, events[1:])]


# milliseconds, as in kernels/timing.ts: by then a GPU that reaches the limit of its power has lowered its clock
WARM_UP_MS = 400


def warm_up(action):
    """Repeats an action for as long as the GPU needs to be warm."""
    warmed_ms = 0
    while warmed_ms < WARM_UP_MS:
        warmed_ms += sum(intervals_ms(action, 1))


def train_step(
    gpt,
    batch,
    length,
    dtype,
    compiled=None,
    vocabulary_size=VOCABULARY_SIZE,
    accumulation=1,
    is_distributed=False,
    warmup=8,
    steps=20,
):
    """Times a training step: forward, backward, clipping, AdamW; `compiled` is a mode of torch.compile."""
    device = "cuda"
    gpt = gpt.to(device)
    if is_distributed:
        gpt = nn.parallel.DistributedDataParallel(gpt, gradient_as_bucket_view=True)
    decayed = [p for p in gpt.parameters() if p.dim() == 2]
    others = [p for p in gpt.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-4,
        betas=(0.9, 0.95),
        **({"fused": True} if compiled else {}),
    )
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    # otherwise a second batch size would be compiled for any size
    forward = torch.compile(gpt, mode=compiled, dynamic=False) if compiled else gpt
    sample = lambda: sample_tokens(batch, length, vocabulary_size, device)
    data = [(sample(), sample()) for _ in range(4)]
    turn = 0

    def step():
        nonlocal turn
        for micro_batch in range(accumulation):
            tokens, targets = data[turn % len(data)]
            turn += 1
            if compiled:
                torch.compiler.cudagraph_mark_step_begin()
            # gradients are exchanged with those of the last micro-batch
            is_silent = is_distributed and micro_batch < accumulation - 1
            with gpt.no_sync() if is_silent else nullcontext():
                with torch.autocast(device, dtype=dtype or torch.float16, enabled=dtype is not None):
                    loss = forward(tokens, targets)
                scaler.scale(loss / accumulation).backward()
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
    if not is_distributed:  # whose ranks must take the same number of steps
        warm_up(step)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    ms = statistics.median(intervals_ms(step, steps))
    return {
        "ms": ms,
        "tokensPerSecond": 1e3 * accumulation * batch * length / ms,
        "peakBytes": torch.cuda.max_memory_allocated(),
        "firstStepMs": first_ms,
    }


def per_call_ms(action, repeats, samples=9):
    """Milliseconds of an action: the median over samples of the mean over repeats, after a warm-up."""

    def many():
        for _ in range(repeats):
            action()

    warm_up(many)
    return statistics.median(intervals_ms(many, samples)) / repeats


def matmul(layout, dtype, side=4096):
    square = lambda: torch.randn(side, side, device="cuda", dtype=dtype)
    a, b, y = square(), square(), square()
    a = a.T if layout[0] == "T" else a
    b = b.T if layout[1] == "T" else b
    ms = per_call_ms(lambda: torch.matmul(a, b, out=y), repeats=5 if dtype == torch.float32 else 50)
    return {"ms": ms, "flopsPerSecond": 2 * side**3 / ms * 1e3}


def copy(megabytes=1024):
    x = torch.randn(megabytes * 2**18, device="cuda")
    y = torch.empty_like(x)
    ms = per_call_ms(lambda: y.copy_(x), repeats=10)
    return {"ms": ms, "bytesPerSecond": 2 * x.numel() * 4 / ms * 1e3}


def transformers_gpt2(width, layers, heads):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=GENERATION_CONTEXT,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
    )
    return GPT2LMHeadModel(config)


# as deno task bench samples; greedy decoding is faster in transformers
TOP_P = dict(do_sample=True, temperature=0.8, top_k=0, top_p=0.95)
GREEDY = dict(do_sample=False)


def generate(model, streams, sampling, tokens=256, samples=3):
    """Times a model in Hugging Face transformers, in fp16, with key-value cache."""
    gpt = model.half().to("cuda").eval()
    gpt.generation_config.eos_token_id = None  # no text ends early
    gpt.generation_config.pad_token_id = 0
    prompt = torch.full((streams, 1), gpt.config.vocab_size - 1, device="cuda")

    def run(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.inference_mode():
            y = gpt.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=count,
                min_new_tokens=count,
                use_cache=True,
                **sampling,
            )
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        assert y.shape == (streams, 1 + count), y.shape
        return seconds

    run(16)
    seconds = statistics.median(run(tokens) for _ in range(samples))
    return {"ms": 1e3 * seconds, "tokensPerSecond": streams * tokens / seconds}


def single_parts(no_compile):
    """The parts of a report on one GPU, by name."""
    parts = {}
    for name, dtype in {"fp32": torch.float32, "fp16": torch.float16}.items():
        for layout in ("NN", "NT", "TN"):
            parts[f"cublas {name} {layout} 4096"] = partial(matmul, layout, dtype)
    parts["copy f32 1024 MiB"] = copy
    for name, dimensions in {"mini": MINI, "gpt2": GPT2}.items():
        for streams, words in {1: "1 stream", 64: "64 streams"}.items():
            parts[f"generate {name} {words}"] = lambda dimensions=dimensions, streams=streams: (
                generate(transformers_gpt2(**dimensions), streams, TOP_P)
            )
    parts["generate smollm2-135m 1 stream"] = lambda: generate(
        smollm2(GENERATION_CONTEXT), 1, GREEDY, samples=1
    )

    def time_gpt2(name, dimensions, batch, length, modes):
        """Adds a part for each mode of a model of GPT-2's architecture."""

        def part(settings):
            vocabulary_size = settings.get("vocabulary_size", VOCABULARY_SIZE)
            gpt = Gpt(**dimensions, length=length, vocabulary_size=vocabulary_size)
            return train_step(gpt, batch, length, settings["dtype"], settings.get("compiled"))

        for mode, settings in modes.items():
            if not (settings.get("compiled") and no_compile):
                parts[f"train step {name} {batch}x{length}, {mode}"] = partial(part, settings)

    time_gpt2("mini", MINI, 32, 128, EAGER)
    time_gpt2("mini", MINI, 128, 128, EAGER)
    time_gpt2("gpt2", GPT2, 8, 1024, EAGER)
    parts["train step smollm2-135m 8x512, transformers fp16 autocast"] = lambda: train_step(
        Smollm2(512), 8, 512, torch.float16, vocabulary_size=SMOLLM2_VOCABULARY_SIZE
    )
    time_gpt2("mini", MINI, 32, 128, BEST)
    time_gpt2("mini", MINI, 128, 128, BEST)
    time_gpt2("gpt2", GPT2, 8, 1024, BEST)
    time_gpt2("mini", MINI, 32, 128, COMPILED)
    time_gpt2("gpt2", GPT2, 8, 1024, COMPILED)
    return parts


def ddp_parts(ranks, rank):
    """Steps of all ranks together, which count the tokens of all, and of rank 0 alone."""
    import torch.distributed as dist

    def part(dimensions, batch, length, settings, accumulation, is_distributed):
        dist.barrier()
        result = {}
        if is_distributed or rank == 0:
            torch.manual_seed(rank)
            vocabulary_size = settings.get("vocabulary_size", VOCABULARY_SIZE)
            gpt = Gpt(**dimensions, length=length, vocabulary_size=vocabulary_size)
            result = train_step(
                gpt,
                batch,
                length,
                settings["dtype"],
                settings.get("compiled"),
                vocabulary_size,
                accumulation=accumulation,
                is_distributed=is_distributed,
                warmup=2 if accumulation > 1 else 8,
                steps=max(4, 20 // accumulation),
            )
            if is_distributed:
                result["tokensPerSecond"] *= ranks
        dist.barrier()
        return result

    parts = {}
    # the slowest comes last
    for mode in ("eager fp16 autocast", "compile bf16", "eager fp32"):
        settings = {**EAGER, **COMPILED}[mode]
        for name, dimensions, batch, length in (
            ("gpt2", GPT2, 8, 1024),
            ("mini", MINI, 32, 128),
            ("mini", MINI, 128, 128),
        ):
            for accumulation in (1, 4, 16):
                for is_distributed in (True, False):
                    who = f"DDP, {ranks} ranks" if is_distributed else "1 rank"
                    key = f"train step {name} {batch}x{length} x {accumulation}, {mode}, {who}"
                    parts[key] = partial(
                        part, dimensions, batch, length, settings, accumulation, is_distributed
                    )
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", help="write the results to this file after each part")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--ddp", action="store_true", help="time ranks that torchrun has started")
    parser.add_argument("--filter", nargs="+", help="only the parts whose names contain one of the texts")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")  # fp32 is fp32: no tf32
    torch.manual_seed(0)

    rank = 0
    if options.ddp:
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device)
        parts = ddp_parts(ranks, rank)
        command = f"torchrun --standalone --nproc-per-node {ranks} bench/pytorch_baseline.py --ddp"
    else:
        parts = single_parts(options.no_compile)
        command = "python3 bench/pytorch_baseline.py" + (" --no-compile" if options.no_compile else "")
    if options.filter:
        command += " --filter " + " ".join(f'"{text}"' for text in options.filter)
    report = {
        "command": command,  # without the path of --json
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
    for name, part in parts.items():
        if options.filter and not any(text in name for text in options.filter):
            continue
        try:
            result = {"name": name, **part()}
            report["results"].append(result)
            if rank == 0:
                print(json.dumps(result), file=sys.stderr, flush=True)
        except Exception as error:  # the other parts still run
            message = f"{type(error).__name__}: {error}".split("\n")[0]
            report["failures"].append({"name": name, "message": message})
            print(f"{name} failed: {message}", file=sys.stderr, flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        if options.json and rank == 0:
            with open(options.json, "w") as file:
                json.dump(report, file, indent=2)
                file.write("\n")
    if rank == 0:
        print(json.dumps(report))
    if options.ddp:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
