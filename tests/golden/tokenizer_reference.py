#!/usr/bin/env python3
"""Trains a byte-level BPE with Hugging Face's library and compares its merges with a tokenizer of ours.

    pip install tokenizers
    deno task tokenizer --vocab-size 4096 --out tokenizer.json stories.txt
    python3 tests/golden/tokenizer_reference.py tokenizer.json stories.txt

Give --min-frequency if it was given to the other. The texts are cut into documents as `deno task
tokenizer` does: at each <|endoftext|>, without the white space around them, \\r\\n as \\n.
"""

import argparse
import json
import sys
import time

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

parser = argparse.ArgumentParser()
parser.add_argument("tokenizer")
parser.add_argument("files", nargs="+")
parser.add_argument("--min-frequency", type=int, default=2)
options = parser.parse_args()


def documents():
    for path in options.files:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read().replace("\r\n", "\n")
        for document in text.split("<|endoftext|>"):
            if document.strip():
                yield document.strip()


with open(options.tokenizer, encoding="utf-8") as file:
    ours = json.load(file)["model"]
reference = Tokenizer(models.BPE())
reference.pre_tokenizer = ByteLevel(add_prefix_space=False)
start = time.time()
reference.train_from_iterator(documents(), trainers.BpeTrainer(
    vocab_size=len(ours["vocab"]),
    min_frequency=options.min_frequency,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=ByteLevel.alphabet(),
    show_progress=False,
))
seconds = time.time() - start
theirs = json.loads(reference.to_str())["model"]
merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in theirs["merges"]]
print(f"trained {len(merges)} merges in {seconds:.1f} s")
for rank, (mine, other) in enumerate(zip(ours["merges"], merges)):
    if mine != other:
        sys.exit(f"merge {rank} differs: {mine!r} here, {other!r} there")
if len(ours["merges"]) != len(merges):
    sys.exit(f"{len(ours['merges'])} merges here, {len(merges)} there")
# the same ids too, but that their special tokens come first and ours last
by_id = sorted(theirs["vocab"], key=theirs["vocab"].get)
if by_id[1:] + by_id[:1] != sorted(ours["vocab"], key=ours["vocab"].get):
    sys.exit("the merges agree, the ids do not")
print("all merges and ids agree")
