#!/usr/bin/env python3
"""Writes tests/golden/conversations.json: conversations as Hugging Face transformers encodes them.

    pip install torch transformers
    python3 tests/golden/make_conversations.py

The file has a small tokenizer, chat templates of four kinds, which were written for this test, conversations, their
ids, and the tokens of assistants: those of `return_assistant_tokens_mask` if the template marks them with
`{% generation %}`, and otherwise those that an assistant's message adds to the text that asks for it.
tests/parity/conversations.py compares random conversations in the same way.
"""

import json
import random
from pathlib import Path

from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# a date, a block for the system that is always there, contents without white space around them
LLAMA = r"""
{{- bos_token }}
{%- if not today is defined %}
    {%- set today = "3 May 2025" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set rules = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set rules = '' %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{{- "Today is " ~ today ~ "\n\n" }}
{{- rules }}
{{- "<|eot_id|>" }}
{%- for turn in turns %}
    {%- if turn.role not in ['user', 'assistant'] %}
        {{- raise_exception('Only the first message may be the system\'s') }}
    {%- endif %}
    {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' + turn['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# a default system message, text that is split and stripped by Python's methods, loops with conditions
QWEN = r"""
{%- if tools %}
    {{- raise_exception('no tools') }}
{%- endif %}
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nYou help.<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(users=0) %}
{%- for message in messages if message.content is string %}
    {%- set content = message.content %}
    {%- if message.role == 'user' %}
        {%- set ns.users = ns.users + 1 %}
    {%- endif %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role }}
    {{- '\n' + content.rstrip('\n') + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# marks of what is generated, a macro, tags on lines of their own
SMOLLM = r"""
{%- macro head(role) -%}
{{ '<|im_start|>' ~ role ~ '\n' }}
{%- endmacro -%}
{% for message in messages -%}
    {% if loop.first and message.role != "system" -%}
{{ head("system") }}You are small.<|im_end|>
    {% endif -%}
    {{ head(message.role) -}}
    {%- if message.role == "assistant" -%}
    {% generation %}{{ message.content.strip() }}<|im_end|>{% endgeneration %}
    {%- else -%}
{{ message["content"] }}<|im_end|>
    {%- endif %}
{{ "\n" -}}
{% endfor %}
{% if add_generation_prompt -%}
{{ head("assistant") -}}
{% endif %}
"""

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
)

KINDS = {"llama": LLAMA, "qwen": QWEN, "smollm": SMOLLM, "chatml": CHATML}

SPECIAL = [
    "<|endoftext|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|im_start|>", "<|im_end|>",
]

TEXT = "the assistant says what the user asks for: once upon a time a small bear was here, and the bear was happy. "


def make_tokenizer():
    """A byte-level BPE of a few hundred tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TEXT * 3], trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ))
    return tokenizer


def fast(tokenizer, kind):
    ends = {"llama": "<|eot_id|>", "chatml": "<|endoftext|>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token=ends.get(kind, "<|im_end|>"),
        chat_template=KINDS[kind],
    )


def reference(tokenizer, messages):
    """The ids of a conversation and of the text that asks for an answer, and 1 for each token of an assistant; or an error."""
    def render(some, prompt=False):
        return tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=prompt)
    try:
        given = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True,
            return_assistant_tokens_mask="{% generation" in tokenizer.chat_template,
        )
        ids, prompt = given["input_ids"], tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True,
        )["input_ids"]
        if "assistant_masks" in given:
            return {"ids": ids, "mask": given["assistant_masks"], "prompt": prompt}
        text, spans = render(messages), []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before, after = render(messages[:i], True), render(messages[:i + 1])
                assert after.startswith(before) and text.startswith(after)
                spans.append((len(before), len(after)))
    except TemplateError:
        return {"error": True}
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded["input_ids"] == ids
    mask = [
        int(any(start < e and s < end for start, end in spans)) for s, e in encoded["offset_mapping"]
    ]
    return {"ids": ids, "mask": mask, "prompt": prompt}


PARTS = [
    " ", "\n", "\n\n", "\t", "\u00a0", "\u0085", "\ufeff", "\x1c", "é", "e\u0301", "🐻", "👩‍👩‍👧", "日本語", "𝒜", "'s", "...", "0", "12345",
    "the bear", " was", "Here", "<|im_end|>", "<|eot_id|>", "<think>\n", "\n</think>\n", "{{ x }}", "\\n", "\"", "'", "<", "|",
]


def content(rng):
    if rng.random() < 0.1:
        return ""
    return "".join(
        chr(rng.randrange(0x20, 0x3000)) if rng.random() < 0.2 else rng.choice(PARTS) for _ in range(rng.randrange(1, 12))
    )


def conversation(rng, most=5):
    """Turns of user and assistant, sometimes after the system, sometimes in another order, some without an answer."""
    roles = ["system"] if rng.random() < 0.4 else []
    for turn in range(rng.randrange(1, most + 1)):
        roles.append("user" if turn % 2 == 0 else "assistant")
        if rng.random() < 0.05:
            roles.append(rng.choice(["user", "assistant", "system"]))
    return [{"role": role, "content": content(rng)} for role in roles]


def main():
    rng, tokenizer = random.Random(7), make_tokenizer()
    cases = []
    for kind in KINDS:
        for _ in range(9):
            messages = conversation(rng)
            cases.append({"kind": kind, "messages": messages, **reference(fast(tokenizer, kind), messages)})
    for kind in ["llama", "qwen", "chatml"]:  # long ones, of which not all beginnings are rendered
        messages = next(
            found for _ in range(1000)
            if len(found := conversation(rng, 18)) > 16 and all(m["role"] != "system" for m in found[1:])
        )
        cases.append({"kind": kind, "messages": messages, **reference(fast(tokenizer, kind), messages)})
    ends = {kind: fast(tokenizer, kind).eos_token for kind in KINDS}
    golden = {"tokenizer": json.loads(tokenizer.to_str()), "templates": KINDS, "ends": ends, "cases": cases}
    Path(__file__).with_name("conversations.json").write_text(json.dumps(golden, ensure_ascii=True) + "\n")
    print(f"{len(cases)} conversations, of which {sum('error' in case for case in cases)} are refused")


if __name__ == "__main__":
    main()
