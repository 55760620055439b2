#!/usr/bin/env python3
"""Compares the event file of a run, as TensorBoard reads it, with the run's metrics.jsonl: every point.

    pip install tensorboard
    python3 tests/parity/event_files.py runs/default

Prints a line for each tag; exits with status 1 if a point differs, is missing, or is left over.
"""

import html
import json
import math
import re
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

SCALARS = {
    "step": {
        "loss/training": "loss",
        "optimizer/learning_rate": "learningRate",
        "optimizer/muon_learning_rate": "muonLearningRate",
        "optimizer/gradient_norm": "gradientNorm",
        "optimizer/loss_scale": "lossScale",
        "optimizer/skipped_steps": "skipped",
        "speed/tokens_per_second": "tokensPerSecond",
        "speed/data_ms": "dataMs",
        "speed/exchange_share": "exchangeShare",
    },
    "evaluation": {
        "loss/validation": "loss",
        "loss/bits_per_byte": "bitsPerByte",
        "loss/entropy": "entropyPerToken",
    },
}


def words(text):
    """A text as its words, with the question marks that TensorBoard shows for control characters."""
    return " ".join(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", text).split())


def shown(markdown):
    """The words that TensorBoard shows of a text."""
    return words(html.unescape(re.sub("<[^>]*>", "", markdown_to_safe_html(markdown))))


def texts_of(line):
    if line["kind"] == "sample":
        return [("sample", words(line["prompt"] + line["text"]))]
    if line["kind"] == "warning":
        return [(f"warning/{line['name']}", words(line["message"]))]
    return []


def buckets_of(line):
    """The buckets of a histogram that hold something, as (from, to): count."""
    buckets = {(2.0**int(e), 2.0 ** (int(e) + 1)): n for e, n in line["positive"].items()}
    buckets |= {(-(2.0 ** (int(e) + 1)), -(2.0**int(e))): n for e, n in line["negative"].items()}
    if line["zeros"]:
        buckets[0, 0] = line["zeros"]
    return buckets


def expected_points(path):
    """By tag: (step, time, value) of every point that the record has."""
    points = {}
    for line in map(json.loads, path.read_text().rstrip().split("\n")):
        time = datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()
        add = lambda tag, value: points.setdefault(tag, []).append((line["step"], time, value))
        for tag, name in SCALARS.get(line["kind"], {}).items():
            if name in line:
                add(tag, float(np.float32(math.nan if line[name] is None else line[name])))
        for tag, text in texts_of(line):
            add(tag, text)
        if line["kind"] == "start":
            add("options", line["options"])
        if line["kind"] == "histogram" and line["min"] is not None:
            add(f"{line['of']}/{line['name']}", line)
    return points


def found_points(run):
    events = EventAccumulator(str(run), size_guidance=dict(scalars=0, tensors=0, histograms=0))
    events.Reload()
    tags, points = events.Tags(), {}
    for tag in tags["scalars"]:
        points[tag] = [(e.step, e.wall_time, e.value) for e in events.Scalars(tag)]
    for tag in tags["tensors"]:
        points[tag] = [
            (e.step, e.wall_time, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag)
        ]
    for tag in tags["histograms"]:
        points[tag] = [(e.step, e.wall_time, e.histogram_value) for e in events.Histograms(tag)]
    return points


def is_same_table(markdown, options):
    rows = dict(
        tuple(shown(cell) for cell in row.split(" | ", 1))
        for row in (line.strip("| ") for line in markdown.split("\n")[2:])
    )
    flag = lambda name: "--" + re.sub("[A-Z]", lambda letter: "-" + letter[0].lower(), name)
    text = lambda value: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return all(flag(name) in rows for name, value in options.items() if value is not None) and all(
        rows[flag(name)] == words(text(value)) for name, value in options.items() if isinstance(value, (str, bool, int))
    )


def is_same_histogram(found, line):
    if (found.min, found.max, found.num) != (line["min"], line["max"], line["count"] - line["notFinite"]):
        return False
    wanted, left = buckets_of(line), -math.inf
    for right, count in zip(found.bucket_limit, found.bucket):
        if count:
            # the first bucket of all begins with the least value
            match = [(a, b) for a, b in wanted if (a, b) == (0, 0) and left < 0 < right
                     or b == right and (a == left or left == -math.inf)]
            if len(match) != 1 or wanted.pop(match[0]) != count:
                return False
        left = right
    return not wanted


def is_same(found, wanted):
    if isinstance(wanted, float):
        return found == wanted or math.isnan(found) and math.isnan(wanted)
    if isinstance(wanted, str):
        return shown(found) == wanted
    return (is_same_histogram if "positive" in wanted else is_same_table)(found, wanted)


def main():
    run = Path(sys.argv[1])
    expected, found = expected_points(run / "metrics.jsonl"), found_points(run)
    failed = 0
    for tag in sorted(expected.keys() | found.keys()):
        ours, theirs = expected.get(tag, []), found.get(tag, [])
        same = sum(
            a[0] == b[0] and abs(a[1] - b[1]) < 1e-3 and is_same(b[2], a[2]) for a, b in zip(ours, theirs)
        )
        ok = same == len(ours) == len(theirs)
        failed += not ok
        print(f"{'ok    ' if ok else 'FAILED'}  {tag}: {same} of {len(ours)} points are the same, {len(theirs)} were read")
    print(f"{failed} failed" if failed else "all the same")
    sys.exit(1 if failed or not expected else 0)


if __name__ == "__main__":
    main()
