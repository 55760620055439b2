#!/usr/bin/env python3
"""Proves that random conversations have the same ids and the same masks here and in Hugging Face transformers.

    pip install torch transformers
    python3 tests/parity/conversations.py [COUNT [SEED]]

The conversations, tokenizer and templates are those of tests/golden/make_conversations.py, with another seed each time.
Prints what differs, and exits with status 1 if anything does. Deno must be on the PATH or in $DENO.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))

from make_conversations import KINDS, conversation, fast, make_tokenizer, reference  # noqa: E402

count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
rng, tokenizer = random.Random(seed), make_tokenizer()
tokenizers = {kind: fast(tokenizer, kind) for kind in KINDS}
cases = []
for _ in range(count):
    kind, messages = rng.choice(list(KINDS)), conversation(rng, rng.choice([5, 40]))
    cases.append({"kind": kind, "messages": messages, **reference(tokenizers[kind], messages)})
path = Path(tempfile.mkdtemp(prefix="conversations-")) / "cases.json"
path.write_text(json.dumps({
    "tokenizer": json.loads(tokenizer.to_str()),
    "templates": KINDS,
    "ends": {kind: tokenizers[kind].eos_token for kind in KINDS},
    "cases": cases,
}))
refused = sum("error" in case for case in cases)
print(f"seed {seed}: {count} conversations, of which transformers refuses {refused}", flush=True)
deno = os.environ.get("DENO", "deno")
ours = subprocess.run([deno, "run", "-A", "tests/parity/conversations.ts", str(path)], cwd=ROOT)
print("all equal" if ours.returncode == 0 else "there are differences")
sys.exit(ours.returncode)
