#!/usr/bin/env python3
"""Proves that models are the same here and in Hugging Face's libraries, whoever made and whoever loads them.

    pip install torch transformers peft safetensors
    python3 tests/parity/parity.py

Makes random GPT-2 and GPT-Neo models of several shapes, stores them in every way that is found on the hub,
and lets Deno load, run, continue, save and fine-tune them (ours.ts). Prints a line for each check; exits with
status 1 if one fails. Needs no network and a minute or two; Deno must be on the PATH or in $DENO.
"""

import json
import os
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
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoConfig

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
}

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
                p.normal_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0, 0.1)
            else:
                deviations = {"wpe": 0.1, "wte": 0.2, "lm_head": 0.2}
                others = 0.7 / p.shape[1] ** 0.5
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
        model.transformer.save_pretrained(path)
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
        normed = [*map(model.transformer.ln_f, states[:-1]), states[-1]]
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
    models = {name: random_model(config) for name, config in CONFIGS.items()}
    paths = {name: stored(model, "whole", name) for name, model in models.items()}
    for name, path in paths.items():
        run(f"{name}, ours loading theirs", path, CONFIGS[name], lambda name=name: models[name])
        lens(name, path, models[name], CONFIGS[name])
        for dtype in ("F32", "F16"):
            save_again(name, path, models[name], CONFIGS[name], dtype)
    for name, how in [
        ("gpt2", "shards"), ("gpt2 wide", "without prefix"), ("gpt2 own head", "float16"), ("neo", "bfloat16"),
        ("neo 48", "pytorch_model.bin"), ("neo local", "shards"), ("gpt2 own head", "pytorch_model.bin"),
        ("gpt2 relu", "torch.compile() in DataParallel"),
    ]:
        model = random_model(CONFIGS[name])
        path = stored(model, how, name)  # under float16 and bfloat16 the model is rounded, too
        run(f"{name}, stored as {how}", path, CONFIGS[name], lambda model=model: model, greedy=False)

    size = dict(vocabularySize=V, contextLength=160, width=64, layers=3, heads=2)
    created("gpt2 of ours", size, GPT2Config(n_positions=160))
    created(
        "neo of ours",
        size | dict(family="gpt_neo", attentionScale=1, attentionWindows=[0, 40, 40], innerWidth=100, ownHead=True),
        GPTNeoConfig(max_position_embeddings=160),
    )
    adapters_of_theirs("gpt2", paths["gpt2"], ["c_attn", "c_proj", "c_fc"])
    adapters_of_theirs("neo 48", paths["neo 48"], ["k_proj", "v_proj", "out_proj"])
    adapters_of_theirs(
        "gpt2", paths["gpt2"], r".*\.(c_attn|c_fc|c_proj)", "rank-stabilized adapters of peft", use_rslora=True,
        rank_pattern={r"h\.0\.mlp\.c_.*": 9}, alpha_pattern={"c_fc": 3}, exclude_modules=["h.1.mlp.c_proj"],
    )
    adapters_of_theirs(
        "neo", paths["neo"], "all-linear", "adapters of peft of every layer", rank_pattern={"out_proj": 2},
    )
    adapters_of_theirs(
        "gpt2 wide", paths["gpt2 wide"], ["c_attn", "c_fc"], "adapters of peft in two blocks", layers_to_transform=[0, 2],
    )
    adapters_of_ours("gpt2 wide", paths["gpt2 wide"], ["c_attn", "mlp.c_proj"])
    adapters_of_ours("neo", paths["neo"], ["q_proj", "v_proj", "c_fc"])
    perform()
    for add in second:
        add()
    perform()
    shutil.rmtree(HERE)
    print(f"{failures} failed" if failures else "all the same", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
