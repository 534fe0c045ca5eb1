"""A conversation that is put together equals the one that the template renders, and only harmless templates are."""

from __future__ import annotations

import random

import pytest

from jupyter_ft.data import load, render
from jupyter_ft.data.edges import EdgeFinder
from jupyter_ft.data.layout import LayoutError, encode, write
from jupyter_ft.data.opaque import only_writes_contents
from jupyter_ft.data.writer import Writer
from tests.data.conftest import CHATML, OPENS_OTHERWISE, STRICT, UNSTOPPED, toy

ZEPHYR = (
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
    "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n{% else %}\n"
    "{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|h|>' + message['role'] "
    "+ '<|/h|>\n\n' + message['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + "
    "content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|h|>assistant<|/h|>\n\n' }}"
    "{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
    "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content = "
    "'<<SYS>>' + system_message + '<</SYS>>' + message['content'] %}{% else %}{% set content = message['content'] %}"
    "{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nBe kind.<|im_end|>\n' }}{%- endif %}{%- for message in messages %}"
    '{%- if (message.role == "user") or (message.role == "system" and not loop.first) or '
    '(message.role == "assistant" and not message.tool_calls) %}'
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    '{%- elif message.role == "assistant" %}{%- for tool_call in message.tool_calls %}{{- tool_call.name | tojson }}'
    "{%- endfor %}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TRIMS_INSIDE = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content | trim ~ ' / ' ~ m.content }}{% endfor %}"
HARMLESS = [CHATML, OPENS_OTHERWISE, UNSTOPPED, ZEPHYR, LLAMA_3, QWEN, TRIMS_INSIDE]
EACH = "{% for m in messages %}{{ m.content }}{% endfor %}"
LOOKS = [
    STRICT,
    LLAMA_2,
    EACH + "{% for m in messages %}{% if 'x' in m.content %}!{% endif %}{% endfor %}",
    EACH + "{% for m in messages %}{% if m.content %}!{% endif %}{% endfor %}",
    EACH + "{{ messages[0].content | upper }}",
    EACH + "{{ messages[0].content[:2] }}",
    EACH + "{{ messages[0].content | length }}",
    EACH + "{{ messages | tojson }}",
    EACH + "{{ messages[0].get('content')[0] }}",
    EACH + "{% for k, v in messages[0].items() %}{{ v }}{% endfor %}",
    EACH + "{% for m in messages if m.content == 'x' %}!{% endfor %}",
    EACH + "{% set x = messages[0] %}{% set y = x.content %}{{ y | first }}",
    EACH + "{% set ns = namespace(x='') %}{% set ns.x = messages[0].content %}{{ ns.x | first }}",
    EACH + "{% macro f(m) %}{{ m.content | first }}{% endmacro %}{{ f(messages[0]) }}",
    EACH + "{% for m in messages %}{{ loop.previtem.content | first }}{% endfor %}",
    EACH + "{{ (messages | map(attribute='content') | list)[0] | first }}",
    EACH + "{% set x %}{{ messages[0].content }}{% endset %}{{ x | first }}",
    EACH + "{% for m in messages %}{{ (' ' + m.content) | trim }}{% endfor %}",
    EACH + "{{ messages[0].content * 2 }}",
    EACH + "{% set y = '' %}{% for m in messages %}{{ y | first }}{% set y = m.content %}{{ y }}{% endfor %}",
    EACH + "{{ 'a' if messages[0].content == 'x' else 'b' }}",
]
CONTENTS = ["hi", " x ", "\n\ny\n", "a{{ b }}%}", "", "  ", "é🙂", "</think>z", "<|im_end|>", "1. 0"]
ROLES = [["user"], ["system", "user"], ["user", "assistant"], ["system", "user", "assistant", "user", "assistant"]]


def both(tokenizer, writer, turns, answer_next):
    found = []
    for written in (
        lambda: write(tokenizer, turns, answer_next=answer_next),
        lambda: writer.write(turns, answer_next=answer_next),
    ):
        try:
            found.append(written())
        except LayoutError as reason:
            found.append(str(reason))
    return found


@pytest.mark.parametrize("template", [*HARMLESS, *LOOKS])
def test_what_is_put_together_is_what_the_template_writes(template):
    tokenizer = toy(template)
    writer, chance = Writer(tokenizer), random.Random(0)
    for roles in ROLES * 20:
        turns = [{"role": role, "content": chance.choice(CONTENTS)} for role in roles]
        for answer_next in (False, True):
            rendered, put_together = both(tokenizer, writer, turns, answer_next)
            assert put_together == rendered
    assert only_writes_contents(template) == (template in HARMLESS)


def test_a_harmless_template_is_rendered_once_for_all_rows(monkeypatch):
    tokenizer = toy(LLAMA_3)
    rendered = []
    apply = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: (rendered.append(1), apply(*a, **k))[1])
    rows = load([{"prompt": f" {number}?", "completion": f"{number} "} for number in range(300)], {})
    render(rows, tokenizer, system="S", max_length=1000)
    assert len(rendered) == 2  # the row, and what precedes its answer


def test_an_edge_stands_where_the_ids_of_the_beginning_end(chatml, plain):
    """Also where a token lies across it, a special one too."""
    chance = random.Random(1)
    parts = ["<|im_start|>", "<|im_end|>", "<s>", "a", "b", "ab", "\n", "\n\n", " ", "é🙂", "<|im", "_end|>"]
    for tokenizer in (chatml, plain):
        finder = EdgeFinder(tokenizer)
        texts = ["".join(chance.choices(parts, k=chance.randint(1, 12))) for _ in range(400)]
        texts = [text for text in texts if len(text) > 1]
        edges = [sorted({chance.randint(1, len(text) - 1) for _ in range(3)}) for text in texts]
        for text, inner, (ids, found) in zip(texts, edges, finder.tokenise(texts, edges), strict=True):
            assert ids == encode(tokenizer, [text])[0]
            for edge in inner:
                beginning = encode(tokenizer, [text[:edge]])[0]
                same = next((n for n, (x, y) in enumerate(zip(beginning, ids, strict=False)) if x != y), len(beginning))
                assert found[edge] == same, (text, edge)
