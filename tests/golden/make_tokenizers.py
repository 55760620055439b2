#!/usr/bin/env python3
"""Writes tokenizers.json: small tokenizers of every kind, and what Hugging Face's library makes of texts.

    pip install tokenizers
    python3 tests/golden/make_tokenizers.py

Made with tokenizers 0.23.2.
"""

import base64
import json
import zlib
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

# short stories and odd texts: what the tokenizers learn, and what they are tried on
STORIES = [
    "Once upon a time, there was a little girl named Lily. She didn't like the old wooden gate.",
    "\"I'll open it,\" said Tom. \"We've got 25 keys and 1,000 minutes!\" They tried and tried.",
    "The sun went down behind the hills; the dog slept, the cat slept, and Lily's lamp went out.",
    "In the morning the gate stood open. Nobody knew why... Maybe it was the wind? Maybe not.",
    "Tom\tran\n\ninto the garden   and found 3 red apples, 12 pears and a_very_long name.",
    "El niño vio una araña pequeña. Der Straßenbahnfahrer trank Kaffee. Le garçon était là.",
    "Жила-была девочка. Η Σοφία είδε τον ΗΛΙΟΣ. 昔々、あるところに女の子がいました。你好，世界！",
]
ODD = [
    "",
    " ",
    "   \n\n  ",
    "don't I'LL we've 's 're",
    "  two  blanks\r\nand a\u00a0hard one\u0085and\ufeffnone\u2003 wide",
    "nai\u0308ve cafe\u0301 \ufb01sh \u2460 \u2167 \uff71 so\u00adft \u0130 \u1e9e",
    "🦖 👩‍👩‍👧 क्षि हिन्दी ab\u200dc",
    "12345 ½ ⅷ ٣٤ 1,000.50 x2y",
    "HELLO World.How are you?I'm fine -- really!?",
    "foo_bar __init__ a-b (c)[d]{e} <f>&g",
    "\0\x07\x1b \ufffd",
    "▁x ▁▁y z▁",
    "<s> a </s> <unk> <|endoftext|> [SEP] <0x0A>",
    "a<tag>b <tag> <sep> c<sep>word sword word",
    "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz" * 3 + " end",
    "Ω☃",
]
TEXTS = ODD + STORIES

# SentencePiece's table for: ﬁ → fi, ① → 1, e + acute → é, tab → blank, Ⅷ → VIII, ｱ → ア, soft hyphen →
# nothing, A → a, CR LF → LF; from spm_train --normalization_rule_tsv
CHARSMAP = zlib.decompress(base64.b64decode(
    "eNol03mQ13MYB/Dn98M07bRmmjE1ojREKkcrZYtFKuanRYrIlaNWq6FDRZR2N8tSOlxtOqRDYhfr3HK0tY5q1t2x"
    "iq5l0JSjQofK6zv98Zr35zvP85n5zvd5vnFsRLSOaJwdcUxEUVbLiJTM7hjRRNblpqO4cUQlTT3rLlrsXFqejkbO"
    "88ZHHCeL3T9eVrl/giSa04wTmV6fjpNkC7TEyZxCKypq0skrxGmcyum0oS1n0I4z6UB7zuYszuUccvgoPx2d5Hl0"
    "5nwuoAtdyeVCupHHRVzCxXTnUnpwGb3oyRVcTibpyUtFb3klV5HPNVzNtfShH325nuu4gf4M4EZu5iZu5RYGcht3"
    "cDt3cSeDGcTdFFDIEIZyD/cmPb7/MHkfIxjO/YxkNKN4gDGM5UEe5iGMLMYxgUcojqODnUgJpTzK4zzGE5QxiSd5"
    "islMZUoyW6bxDE/zHM8yg+eZSTmzeIE5zOZF5vIS81jAfBaxkMW8zBJe4TVepTLZGd7gdap4k7d5i3d5h/d5j6VU"
    "8wHLkl3hQ5bzMSuooZaVfMonfM5nrGZVUqtOxRr5BXV8xZd8w9d8x7esYy0bWM/31LOJjfzID2xhM9vYSgPb+Zmf"
    "+IU/KlLxm/w1qZWlYofcxc6kxu/8xZ/sYTd/s5d/+Yf97OMgBzjEfxzhMJHl98uJ/plMxi4WFEbtkmgomR//AyXz"
    "lwM="
))

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train(model, trainer, pre_tokenizer, decoder, normalizer=None, added=()):
    tokenizer = Tokenizer(model)
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(STORIES * 3, trainer)
    tokenizer.add_tokens(list(added))
    return tokenizer


def byte_level_bpe(*cuts, words=True, special=("<|endoftext|>",), size=330, normalizer=None, added=(),
                   prefix=False, **model):
    last = pre.ByteLevel(add_prefix_space=prefix, use_regex=words)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre.ByteLevel.alphabet(),
        **({"end_of_word_suffix": model["end_of_word_suffix"]} if "end_of_word_suffix" in model else {}),
    )
    pre_tokenizer = pre.Sequence([*cuts, last]) if cuts else last
    return train(models.BPE(**model), trainer, pre_tokenizer, decoders.ByteLevel(), normalizer, added)


def sentencepiece_bpe(pre_tokenizer, decoder, normalizer=None, fallback=True, fuse=True):
    """BPE over characters, learned from words and applied as the pre-tokenizer leaves the text."""
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    trainer = trainers.BpeTrainer(
        vocab_size=len(bytes_) + 160, special_tokens=special + bytes_, limit_alphabet=60,
        show_progress=False,
    )
    tokenizer = train(models.BPE(unk_token="<unk>"), trainer, pre.Metaspace(), decoder, normalizer)
    tokenizer.pre_tokenizer = pre_tokenizer or pre.Metaspace()
    file = json.loads(tokenizer.to_str())
    if not pre_tokenizer:
        file["pre_tokenizer"] = None
    file["added_tokens"] = [token for token in file["added_tokens"] if token["id"] < 3]
    file["model"].update(byte_fallback=fallback, fuse_unk=fuse)
    return Tokenizer.from_str(json.dumps(file))


def unigram(pre_tokenizer, decoder, normalizer=None):
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )
    return train(models.Unigram(), trainer, pre_tokenizer, decoder, normalizer)


def word_piece(pre_tokenizer, decoder, normalizer):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=special, limit_alphabet=70, show_progress=False,
    )
    return train(models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizer, decoder, normalizer)


def split(behavior, invert=False):
    return pre.Split(Regex(r"[\s\p{P}]"), behavior, invert=invert)


FUSED = decoders.Sequence([
    decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
])

TOKENIZERS = {
    "GPT-2": byte_level_bpe(),
    "GPT-2 with a prefix space": byte_level_bpe(prefix=True),
    "added tokens": byte_level_bpe(
        special=("<s>", "</s>", "<|endoftext|>"), normalizer=normalizers.NFC(), added=[
            AddedToken("<tag>", special=False, normalized=False),
            AddedToken("<sep>", lstrip=True, rstrip=True),
            AddedToken("word", single_word=True),
            AddedToken("  ", normalized=False),
        ],
    ),
    "digits and punctuation": byte_level_bpe(
        pre.Digits(individual_digits=False), pre.Punctuation("contiguous"), words=False,
    ),
    "single digits": byte_level_bpe(pre.Digits(individual_digits=True)),
    "Llama 3": byte_level_bpe(
        pre.Split(Regex(LLAMA3), "isolated"), words=False, ignore_merges=True,
        special=("<|begin_of_text|>", "<|end_of_text|>"),
    ),
    "Qwen2": byte_level_bpe(
        pre.Split(Regex(QWEN2), "isolated"), words=False, normalizer=normalizers.NFC(),
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), added=[
            AddedToken("<think>", special=False, normalized=False),
        ],
    ),
    "CLIP": byte_level_bpe(
        pre.Split(Regex(CLIP), "removed", invert=True), words=False, end_of_word_suffix="</w>",
        normalizer=normalizers.Sequence([
            normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase(),
        ]),
    ),
    **{
        f"{behavior}, inverted: {invert}": byte_level_bpe(split(behavior, invert), words=False, size=290)
        for behavior in
        ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
        for invert in [False, True]
    },
    "fixed length": byte_level_bpe(pre.FixedLength(5), pre.CharDelimiterSplit(","), words=False),
    "Llama 2": sentencepiece_bpe(None, FUSED, normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")],
    )),
    "Metaspace, not split": sentencepiece_bpe(
        pre.Metaspace(prepend_scheme="first", split=False), decoders.Metaspace(prepend_scheme="first"),
    ),
    "Gemma": sentencepiece_bpe(
        pre.Split(" ", "merged_with_previous"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        normalizers.Replace(" ", "▁"),
    ),
    "no byte fallback": sentencepiece_bpe(
        pre.Metaspace(prepend_scheme="never"), decoders.Metaspace(prepend_scheme="never"),
        fallback=False,
    ),
    "no byte fallback, unknown not fused": sentencepiece_bpe(
        pre.Metaspace(), decoders.Metaspace(), fallback=False, fuse=False,
    ),
    "GPT-1": train(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
        trainers.BpeTrainer(
            vocab_size=250, special_tokens=["<unk>", "</s>"], end_of_word_suffix="</w>",
            show_progress=False,
        ),
        pre.BertPreTokenizer(), decoders.BPEDecoder(suffix="</w>"), normalizers.Lowercase(),
    ),
    "Unigram": unigram(pre.Metaspace(), decoders.Metaspace(), normalizers.NFKC()),
    "T5": unigram(
        pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()]), decoders.Metaspace(),
        normalizers.Precompiled(CHARSMAP),
    ),
    "BERT, uncased": word_piece(
        pre.BertPreTokenizer(), decoders.WordPiece(), normalizers.BertNormalizer(),
    ),
    "BERT, cased": word_piece(
        pre.BertPreTokenizer(), decoders.WordPiece(cleanup=False),
        normalizers.BertNormalizer(lowercase=False),
    ),
    "words": train(
        models.WordLevel(unk_token="[UNK]"),
        trainers.WordLevelTrainer(
            vocab_size=100, special_tokens=["[UNK]", "[EOS]"], show_progress=False,
        ),
        pre.Sequence([pre.Whitespace(), pre.Digits(individual_digits=True)]), None,
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip()]),
    ),
}


def encode(tokenizer, text, special):
    tokenizer.encode_special_tokens = not special
    return tokenizer.encode(text, add_special_tokens=False).ids


results = []
for name, tokenizer in TOKENIZERS.items():
    encoded = [encode(tokenizer, text, True) for text in TEXTS]
    documents = [encode(tokenizer, text, False) for text in TEXTS]
    results.append({
        "name": name,
        "file": json.loads(tokenizer.to_str()),
        "encoded": encoded,
        # only where it makes a difference
        "documents": [None if ids == all_ids else ids for ids, all_ids in zip(documents, encoded)],
        "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in documents],
    })
path = Path(__file__).with_name("tokenizers.json")
path.write_text(json.dumps({"texts": TEXTS, "tokenizers": results}, ensure_ascii=False, separators=(",", ":")) + "\n")
print(f"{path}: {len(results)} tokenizers, {path.stat().st_size} bytes")
