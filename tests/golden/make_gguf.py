#!/usr/bin/env python3
"""Makes q8_0.gguf: a tiny random GPT-2 as llama.cpp's own package writes and quantizes it, and what its tensors are.

Needs numpy and gguf:  python3 tests/golden/make_gguf.py
For tests/model/files/gguf_reader_test.ts. The values of the tensors, dequantized by that package, are in q8_0.json:
their sum and some of them. quantized.json has rows of f32 and what that package makes of them, for q8_0_test.ts.
"""

import base64
import json
import os

import gguf
import numpy as np

V, L, C, LAYERS, HEADS = 258, 8, 32, 1, 2
HERE = os.path.dirname(os.path.abspath(__file__))


def byte_alphabet():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def main():
    random = np.random.default_rng(20261129)
    writer = gguf.GGUFWriter(os.path.join(HERE, "q8_0.gguf"), "gpt2")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(L)
    writer.add_embedding_length(C)
    writer.add_feed_forward_length(4 * C)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # the last two bytes are merged, then there is the end of a text
    tokens = byte_alphabet() + ["th", "<|endoftext|>"]
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(V - 1)
    writer.add_eos_token_id(V - 1)

    shapes = {"token_embd.weight": (V, C), "position_embd.weight": (L, C)}
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
        shapes |= {f"{name}.weight": (C,), f"{name}.bias": (C,)}
    for name, rows, columns in [
        ("attn_qkv", 3 * C, C), ("attn_output", C, C), ("ffn_up", 4 * C, C), ("ffn_down", C, 4 * C),
    ]:
        shapes |= {f"blk.0.{name}.weight": (rows, columns), f"blk.0.{name}.bias": (rows,)}
    Q8_0, F16 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16
    expected = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2 and name != "position_embd.weight":
            kind = F16 if name == "blk.0.ffn_up.weight" else Q8_0
            stored = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, stored, raw_dtype=kind)
            values = gguf.quants.dequantize(stored, kind)
        else:
            writer.add_tensor(name, values)
        flat = values.flatten().astype(float)
        expected[name] = dict(shape=shape, sum=flat.sum(), values=flat[:: max(1, flat.size // 16)].tolist())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(os.path.join(HERE, "q8_0.json"), "w") as file:
        json.dump(expected, file)
        file.write("\n")

    rows = random.standard_normal((12, 32), dtype=np.float32) * 10.0 ** np.arange(-6, 6, dtype=np.float32)[:, None]
    rows[0] *= 1e-3  # a scale that is no normal f16
    rows[1] = 0
    rows[2] = np.arange(32) / 2 - 8  # halves, and a scale that f16 rounds
    rows[2, 0] = 127
    with open(os.path.join(HERE, "quantized.json"), "w") as file:
        encode = lambda array: base64.b64encode(array.tobytes()).decode()
        quantized = gguf.quants.quantize(rows, Q8_0)
        json.dump(dict(values=encode(rows), q8_0=encode(quantized)), file)
        file.write("\n")


if __name__ == "__main__":
    main()
