#!/usr/bin/env python3
"""Proves that models are the same here and in Hugging Face's libraries, whoever made and whoever loads them.

    pip install torch transformers peft safetensors
    python3 tests/parity/parity.py

Makes random models of several shapes (GPT-2, GPT-Neo, GPT-NeoX, Llama, Mistral, Qwen3), stores them in every way that is
found on the hub, and lets Deno load, run, continue, save and fine-tune them (ours.ts). Prints a line for each check;
exits with status 1 if one fails. Needs no network and a few minutes; Deno must be on the PATH or in $DENO.

With names of models as arguments only these are checked. With `--llama-cpp` llama.cpp continues the exported models,
too (llama_cpp.ts, which loads npm:node-llama-cpp, or the package that $NODE_LLAMA_CPP names, from the directory
$NODE_LLAMA_CPP_IN).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM, GPT2Config, GPTNeoConfig, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen3Config,
)

TOLERANCE = 1e-4  # of logits, which are a few units large, in f32
GREEDY = 100  # tokens
V = 301

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(tempfile.mkdtemp(prefix="parity-"))

CONFIGS = {
    "gpt2": GPT2Config(vocab_size=V, n_positions=144, n_embd=48, n_layer=2, n_head=4),
    # heads that GPUs compute in tiles, and a sequence of several of them
    "gpt2 wide": GPT2Config(vocab_size=V, n_positions=320, n_embd=128, n_layer=3, n_head=2),
    "gpt2 own head": GPT2Config(
        vocab_size=V, n_positions=144, n_embd=40, n_layer=2, n_head=2, n_inner=72,
        tie_word_embeddings=False, scale_attn_weights=False,
    ),
    "gpt2 gelu": GPT2Config(
        vocab_size=V, n_positions=144, n_embd=48, n_layer=3, n_head=4, activation_function="gelu",
        layer_norm_epsilon=1e-3, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True,
    ),
    "gpt2 relu": GPT2Config(
        vocab_size=V, n_positions=144, n_embd=48, n_layer=2, n_head=4, activation_function="relu",
    ),
    # as TinyStories-1M, whose heads have four components
    "neo": GPTNeoConfig(
        vocab_size=V, max_position_embeddings=320, hidden_size=64, num_layers=4, num_heads=16,
        attention_types=[[["global", "local"], 2]], window_size=256,
    ),
    # as TinyStories-33M, whose heads have 48
    "neo 48": GPTNeoConfig(
        vocab_size=V, max_position_embeddings=160, hidden_size=96, num_layers=2, num_heads=2,
        attention_types=[[["global", "local"], 1]], window_size=24, intermediate_size=132,
        activation_function="silu", layer_norm_epsilon=1e-6,
    ),
    "neo local": GPTNeoConfig(
        vocab_size=V, max_position_embeddings=160, hidden_size=64, num_layers=3, num_heads=2,
        attention_types=[[["local"], 2], [["global"], 1]], window_size=70,
    ),
    # that of --arch neox
    "neox": GPTNeoXConfig(
        vocab_size=V, max_position_embeddings=144, hidden_size=48, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, hidden_act="gelu_new", tie_word_embeddings=True, use_parallel_residual=False,
        rotary_pct=1.0,
    ),
    # heads wider than a tile of GPUs, and a sequence of several tiles
    "neox linear": GPTNeoXConfig(
        vocab_size=V, max_position_embeddings=320, hidden_size=136, intermediate_size=76, num_hidden_layers=3,
        num_attention_heads=2, hidden_act="gelu_new", use_parallel_residual=False, layer_norm_eps=1e-3,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0, "partial_rotary_factor": 1.0},
    ),
    "neox gelu": GPTNeoXConfig(
        vocab_size=V, max_position_embeddings=144, hidden_size=40, intermediate_size=100, num_hidden_layers=2,
        num_attention_heads=5, hidden_act="gelu", use_parallel_residual=False, attention_bias=False, rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
        },
    ),
    "llama": LlamaConfig(
        vocab_size=V, max_position_embeddings=144, hidden_size=48, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, tie_word_embeddings=True,
    ),
    # heads wider than width / heads, one key head, an own matrix of the head
    "llama head size": LlamaConfig(
        vocab_size=V, max_position_embeddings=144, hidden_size=48, intermediate_size=100, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1, head_dim=20, rms_norm_eps=1e-5,
    ),
    "llama biases": LlamaConfig(
        vocab_size=V, max_position_embeddings=160, hidden_size=96, intermediate_size=72, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=3, attention_bias=True, mlp_bias=True,
        hidden_act="gelu_pytorch_tanh",
    ),
    "llama attention biases": LlamaConfig(
        vocab_size=V, max_position_embeddings=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, attention_bias=True,
    ),
    # a head wider than a tile of GPUs, and a sequence of several tiles
    "llama linear": LlamaConfig(
        vocab_size=V, max_position_embeddings=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=68, rope_parameters={
            "rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0,
        },
    ),
    "llama llama3": LlamaConfig(
        vocab_size=V, max_position_embeddings=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 500000.0,
        },
    ),
    # a width that is no multiple of the heads
    "mistral": MistralConfig(
        vocab_size=V, max_position_embeddings=144, hidden_size=40, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, head_dim=16, sliding_window=None,
    ),
    "mistral window": MistralConfig(
        vocab_size=V, max_position_embeddings=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=24,
    ),
    "qwen3": Qwen3Config(
        vocab_size=V, max_position_embeddings=144, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, rope_parameters={
            "rope_type": "default", "rope_theta": 1000000.0,
        },
    ),
    "qwen3 windows": Qwen3Config(
        vocab_size=V, max_position_embeddings=160, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=1, head_dim=24, attention_bias=True, use_sliding_window=True,
        sliding_window=40, max_window_layers=1, hidden_act="relu2",
    ),
}

# llama.cpp has one activation function per architecture, and no windows in these
COMPUTED_BY_LLAMA_CPP = [
    "gpt2", "gpt2 wide", "gpt2 own head", "neo", "neox", "neox linear", "llama", "llama head size",
    "llama attention biases", "llama linear", "llama llama3", "mistral", "mistral window", "qwen3",
]

failures = 0


def check(name, ok, detail):
    global failures
    failures += not ok
    print(f"{'ok    ' if ok else 'FAILED'}  {name}: {detail}", flush=True)


def length_of(config):
    return getattr(config, "n_positions", None) or config.max_position_embeddings


def random_model(config):
    """A model whose logits are a few units large and whose every parameter matters."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                is_norm = re.search(r"\.ln_|norm", name) and name.endswith("weight")
                p.normal_(1.0 if is_norm else 0.0, 0.1)
            else:
                deviations = {"wpe": 0.1, "wte": 0.2, "lm_head": 0.2, "embed_tokens": 0.2, "embed_in": 0.2}
                # without large branches a tied head repeats the token that it sees
                others = (1.5 if "layers." in name else 0.7) / p.shape[1] ** 0.5
                p.normal_(0.0, next((d for part, d in deviations.items() if part in name), others))
    return model


def load(path):
    model, report = AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="eager", output_loading_info=True,
    )
    wrong = {kind: sorted(names) for kind, names in report.items() if names}
    return model.float().eval(), wrong


def add_tokenizer(path):
    """A tokenizer.json of the 256 bytes and an end of text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    tokens = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    end = dict(id=256, content="<|endoftext|>", single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    model = dict(type="BPE", vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    content = dict(version="1.0", added_tokens=[end], pre_tokenizer=byte_level, decoder=byte_level, model=model)
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


def stored(model, how, name):
    """A directory with the model, stored in one of the ways that are found on the hub."""
    path = HERE / f"{name}, {how}"
    path.mkdir()
    if how == "shards":
        model.save_pretrained(path, max_shard_size="40KB")
        assert len(list(path.glob("*.safetensors"))) > 1
    elif how == "without prefix":
        model.base_model.save_pretrained(path)
    elif how in ("float16", "bfloat16"):
        model.to(getattr(torch, how)).save_pretrained(path)
        model.float()
    elif how == "pytorch_model.bin":
        model.config.save_pretrained(path)
        torch.save(model.state_dict(), path / how)
    elif how == "torch.compile() in DataParallel":
        model.config.save_pretrained(path)
        names = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save(names, path / "pytorch_model.bin")
    else:
        model.save_pretrained(path)
    return add_tokenizer(path)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def greedy_of(model, prompt):
    model.generation_config.eos_token_id = None  # min_new_tokens would forbid it
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=GREEDY, min_new_tokens=GREEDY, pad_token_id=0,
        )
    return ids[0].tolist()


jobs, checks = [], []


def job(check, **fields):
    """Something for ours.ts to do, and what is checked of it when all is done."""
    jobs.append(fields)
    checks.append(check)


def inputs(config):
    length = length_of(config)
    tokens = np.random.randint(V, size=(2, length - 3)).tolist()
    return tokens, np.random.randint(V, size=length - GREEDY).tolist()


def compare(name, ours, theirs):
    difference = float(np.abs(ours - theirs).max())
    detail = f"logits differ by at most {difference:.1e}, they are up to {np.abs(theirs).max():.1f}"
    check(name, difference <= TOLERANCE, detail)


def run(name, path, config, theirs, greedy=True):
    """Ours loads `path` and does what `theirs()` does."""
    tokens, prompt = inputs(config)
    out = HERE / f"{len(jobs)}.logits"

    def compare_all(result):
        model = theirs()
        ours = np.fromfile(out, np.float32).reshape(2, -1, V)
        compare(name, ours, logits_of(model, tokens))
        if greedy:
            found, wanted = result["greedy"], greedy_of(model, prompt)
            same = next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), len(wanted))
            same -= len(prompt)
            check(f"{name}, greedy", found == wanted, f"{same} of {GREEDY} tokens are the same")

    fields = dict(tokens=tokens, prompt=prompt, count=GREEDY, logits=str(out))
    job(compare_all, do="run", model=str(path), **fields)


def lens(name, path, model, config):
    """Ours computes the logit lens; theirs has the residual stream before each block, and after the last layer-norm."""
    (tokens, _), _ = inputs(config)

    def compare_all(result):
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        base = model.base_model
        norm = next(getattr(base, name) for name in ("ln_f", "final_layer_norm", "norm") if hasattr(base, name))
        normed = [*map(norm, states[:-1]), states[-1]]
        logits = torch.stack([model.lm_head(x)[0, :-1] for x in normed])
        wanted = -logits.log_softmax(-1)[:, torch.arange(len(tokens) - 1), tokens[1:]]
        difference = float(np.abs(np.array(result["losses"]) - wanted.numpy()).max())
        check(f"{name}, logit lens", difference <= TOLERANCE, f"losses of {len(states)} layers differ by at most {difference:.1e}")

    job(compare_all, do="lens", model=str(path), tokens=tokens)


def save_again(name, path, model, config, dtype):
    """Ours loads `path` and saves it; theirs loads that."""
    out = HERE / f"{name}, saved as {dtype}"
    tokens, _ = inputs(config)

    def compare_all(_):
        again, wrong = load(out)
        if dtype == "F32":
            before = model.state_dict()
            same = {k for k, v in again.state_dict().items() if torch.equal(v, before[k])}
            check(f"{name}, loaded and saved by ours", len(same) == len(before) and not wrong,
                  f"{len(same)} of {len(before)} tensors are the same bits{wrong or ''}")
        else:
            wanted = {k: v.half().float() for k, v in model.state_dict().items()}
            same = {k for k, v in again.state_dict().items() if torch.equal(v, wanted[k])}
            check(f"{name}, saved by ours as f16", len(same) == len(wanted) and not wrong,
                  f"{len(same)} of {len(wanted)} tensors are the same bits{wrong or ''}")

    job(compare_all, do="save", model=str(path), out=str(out), dtype=dtype)


llama_cpp_jobs, llama_cpp_checks = [], []


def exported(name, path, model, config, dtype="f32"):
    """Ours writes a model for llama.cpp, which continues a text; ours reads it again."""
    out = HERE / f"{name}.{dtype}.gguf"
    _, prompt = inputs(config)
    windows = [n for n in [getattr(config, "sliding_window", None), getattr(config, "window_size", None)] if n]
    prompt = prompt[-GREEDY // 5:] if windows else prompt
    count = max(0, min([GREEDY] + [n - len(prompt) for n in windows]))
    job(lambda _: None, do="gguf", model=str(path), out=str(out), dtype=dtype)
    if dtype == "f32" and not windows:
        second.append(lambda: run(f"{name}, ours loading its GGUF file", out, config, lambda: model, greedy=False))
    if not LLAMA_CPP:
        return
    llama_cpp_jobs.append(dict(path=str(out), prompt=prompt, count=count))

    def compare_ids(found):
        wanted = greedy_of(model, prompt)[len(prompt) :][:count]
        same = next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), len(wanted))
        if dtype == "f32":
            check(f"{name}, greedy of llama.cpp", found == wanted, f"{same} of {count} tokens are the same")
        else:
            check(f"{name} in {dtype}, greedy of llama.cpp", len(found) == count, f"{same} of {count} tokens are the same")

    llama_cpp_checks.append(compare_ids)


def created(name, config, hf_config):
    """Ours makes a model; theirs loads it, and both do the same."""
    out = HERE / name
    opened = {}

    def open_it(_):
        opened["model"], wrong = load(out)
        check(f"{name}, loaded by theirs", not wrong, wrong or "nothing is missing or left over")
        add_tokenizer(out)

    job(open_it, do="create", config=config, out=str(out), seed=7)
    # the second run of ours.ts: only now there is a model
    second.append(lambda: run(f"{name}, theirs loading ours", out, hf_config, lambda: opened["model"]))


def adapters_of_theirs(name, path, targets, how="adapters of peft", **fields):
    """peft makes adapters; ours loads them."""
    base, _ = load(path)
    is_gpt2 = base.config.model_type == "gpt2"
    config = LoraConfig(
        r=4, lora_alpha=2, target_modules=targets, fan_in_fan_out=is_gpt2, task_type="CAUSAL_LM",
        init_lora_weights=False,  # B is not zero
        **fields,
    )
    model = get_peft_model(base, config).eval()
    out = HERE / f"{name}, {how}"
    model.save_pretrained(out)
    run(f"{name}, {how} loaded by ours", out, base.config, lambda: model)


def adapters_of_ours(name, path, targets):
    """Ours trains adapters; peft loads them, and both do the same; merged they are a model again."""
    out, merged = HERE / f"{name}, adapters of ours", HERE / f"{name}, merged by ours"
    checkpoint = out / "checkpoints" / "000008"
    text = HERE / "stories.txt"
    text.write_text("\n<|endoftext|>\n".join(f"Story {i} is about {i * i} cats." for i in range(99)))
    config = load(path)[0].config
    tokens, _ = inputs(config)
    opened = {}

    def open_it(_):
        base, _ = load(path)
        before = logits_of(base, tokens)
        opened["model"] = PeftModel.from_pretrained(base, checkpoint).eval()
        change = float(np.abs(logits_of(opened["model"], tokens) - before).max())
        check(f"{name}, adapters of ours loaded by peft", change > 0.1, f"they change logits by up to {change:.1f}")

    options = dict(
        initFrom=str(path), data=[str(text)], out=str(out), loraRank=4, loraAlpha=10, loraTargets=",".join(targets),
        contextLength=32, batchSize=4, steps=8, learningRate=0.01, sampleEvery=0, tune="off",
    )
    job(open_it, do="train", options=options)
    second.append(lambda: run(f"{name}, peft loading adapters of ours", checkpoint, config, lambda: opened["model"]))

    def compare_merged(_):
        model, wrong = load(merged)
        ours, theirs = logits_of(model, tokens), logits_of(opened["model"], tokens)
        check(f"{name}, merged by ours", not wrong, wrong or "nothing is missing or left over")
        compare(f"{name}, merged by ours", ours, theirs)

    second.append(lambda: job(compare_merged, do="save", model=str(checkpoint), out=str(merged), dtype="F32"))


second = []
LLAMA_CPP = "--llama-cpp" in sys.argv[1:]


def run_llama_cpp():
    """Lets llama.cpp continue the exported models, then checks each."""
    file = HERE / "llama_cpp.json"
    file.write_text(json.dumps(llama_cpp_jobs))
    script = Path(__file__).with_name("llama_cpp.ts")
    place = Path(os.environ.get("NODE_LLAMA_CPP_IN", ROOT))
    if place != ROOT:
        script = shutil.copy(script, place)
    command = [
        os.environ.get("DENO", "deno"), "run", "-A", "--no-config", "--no-lock",
        *(["--node-modules-dir=manual"] if place != ROOT else []), str(script), str(file),
    ]
    done = subprocess.run(command, cwd=place, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"FAILED  llama_cpp.ts ended with status {done.returncode}")
    for check_it, line in zip(llama_cpp_checks, done.stdout.splitlines(), strict=True):
        check_it(json.loads(line))


def perform():
    """Lets ours.ts do the jobs, then checks each."""
    file = HERE / "jobs.json"
    file.write_text(json.dumps(jobs))
    # without the project's configuration, whose packages ours.ts does without
    command = [
        os.environ.get("DENO", "deno"), "run", "--no-config", "--no-lock", "--no-prompt", "--allow-read",
        "--allow-write", "--allow-sys", "tests/parity/ours.ts", str(file),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"FAILED  ours.ts ended with status {done.returncode}")
    for check_it, line in zip(checks, done.stdout.splitlines(), strict=True):
        check_it(json.loads(line))
    jobs.clear()
    checks.clear()


def main():
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}", flush=True)
    torch.manual_seed(20261125)
    np.random.seed(20261125)
    torch.set_grad_enabled(False)
    wanted = [name for name in sys.argv[1:] if name != "--llama-cpp"] or list(CONFIGS)
    models = {name: random_model(CONFIGS[name]) for name in wanted}
    paths = {name: stored(model, "whole", name) for name, model in models.items()}
    for name, path in paths.items():
        run(f"{name}, ours loading theirs", path, CONFIGS[name], lambda name=name: models[name])
        lens(name, path, models[name], CONFIGS[name])
        for dtype in ("F32", "F16"):
            save_again(name, path, models[name], CONFIGS[name], dtype)
        if name in COMPUTED_BY_LLAMA_CPP:
            exported(name, path, models[name], CONFIGS[name])
        if name in ("gpt2", "llama linear", "qwen3"):
            exported(name, path, models[name], CONFIGS[name], "q8_0")
    for name, how in [
        ("gpt2", "shards"), ("gpt2 wide", "without prefix"), ("gpt2 own head", "float16"), ("neo", "bfloat16"),
        ("neo 48", "pytorch_model.bin"), ("neo local", "shards"), ("gpt2 own head", "pytorch_model.bin"),
        ("gpt2 relu", "torch.compile() in DataParallel"), ("llama head size", "shards"), ("llama biases", "bfloat16"),
        ("qwen3 windows", "pytorch_model.bin"), ("mistral", "shards"), ("llama", "without prefix"),
        ("neox linear", "pytorch_model.bin"), ("neox gelu", "shards"), ("neox", "without prefix"),
    ]:
        if name in wanted:
            model = random_model(CONFIGS[name])
            path = stored(model, how, name)
            if "float16" in how:
                model = load(path)[0]  # to() has rounded the frequencies of rotary positions, too
            run(f"{name}, stored as {how}", path, CONFIGS[name], lambda model=model: model, greedy=False)

    size = dict(vocabularySize=V, contextLength=160, width=64, layers=3, heads=2)
    llama = size | dict(family="llama", heads=4)
    scaling = dict(
        type="llama3", factor=4, lowFrequencyFactor=1, highFrequencyFactor=3, originalContextLength=40,
    )
    for name, fields in {
        "gpt2": size,
        "neo": size | dict(
            family="gpt_neo", attentionScale=1, attentionWindows=[0, 40, 40], innerWidth=100, ownHead=True,
        ),
        "neox": size | dict(family="gpt_neox", ownHead=True, rotaryScaling=scaling, activation="gelu"),
        "neox linear": size | dict(positions="rotary", heads=4, rotaryBase=500),  # a GPT-2 of ours
        "llama": llama | dict(keyHeads=2, ownHead=True, rotaryScaling=scaling),
        "mistral": llama | dict(headSize=20, keyHeads=1, attentionWindows=[40, 40, 40]),
        "qwen3": llama | dict(qkNorm=True, keyHeads=2, attentionWindows=[0, 40, 0], qkvBias=True, projectionBias=True),
    }.items():
        if name in wanted:
            created(f"{name} of ours", fields, CONFIGS[name].__class__(max_position_embeddings=160))
    linear = r".*\.(c_attn|c_fc|c_proj)"
    for name, targets, how, more in [
        ("gpt2", ["c_attn", "c_proj", "c_fc"], "adapters of peft", {}),
        ("neo 48", ["k_proj", "v_proj", "out_proj"], "adapters of peft", {}),
        ("gpt2", linear, "rank-stabilized adapters of peft", dict(
            use_rslora=True, rank_pattern={r"h\.0\.mlp\.c_.*": 9}, alpha_pattern={"c_fc": 3},
            exclude_modules=["h.1.mlp.c_proj"],
        )),
        ("neo", "all-linear", "adapters of peft of every layer", dict(rank_pattern={"out_proj": 2})),
        ("gpt2 wide", ["c_attn", "c_fc"], "adapters of peft in two blocks", dict(layers_to_transform=[0, 2])),
        ("llama biases", "all-linear", "adapters of peft of every layer", dict(rank_pattern={"o_proj": 2})),
        ("neox", ["query_key_value", "dense"], "adapters of peft", {}),
        ("neox linear", "all-linear", "adapters of peft of every layer", dict(rank_pattern={"query_key_value": 2})),
        ("qwen3", ["q_proj", "k_proj", "down_proj"], "adapters of peft", {}),
        ("qwen3 windows", ["v_proj", "gate_proj"], "adapters of peft in two blocks", dict(layers_to_transform=[0, 2])),
    ]:
        if name in wanted:
            adapters_of_theirs(name, paths[name], targets, how, **more)
    for name, targets in [
        ("gpt2 wide", ["c_attn", "mlp.c_proj"]), ("neo", ["q_proj", "v_proj", "c_fc"]),
        ("neox", ["query_key_value", "dense_4h_to_h"]),
        ("llama head size", ["q_proj", "v_proj", "gate_proj"]), ("qwen3", ["k_proj", "o_proj", "up_proj", "down_proj"]),
    ]:
        if name in wanted:
            adapters_of_ours(name, paths[name], targets)
    perform()
    for add in second:
        add()
    perform()
    if LLAMA_CPP:
        run_llama_cpp()
    shutil.rmtree(HERE)
    print(f"{failures} failed" if failures else "all the same", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
