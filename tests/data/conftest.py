"""Tokenizers small enough to read: one token a byte, but for the merges and special tokens named here."""

from __future__ import annotations

import pytest

SPECIALS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Writes its own <s>, refuses a system turn and turns out of order, and strips the thoughts of all but the last answer.
STRICT = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{% set c = m['content'] %}{% if not loop.last %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ ' ' + c + '</s>' }}{% endif %}{% endfor %}"
)
# Opens an answer with a thought when it generates, and without one when the answer is there (Gemma 4, DeepSeek R1).
OPENS_OTHERWISE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think></think>' }}{% endif %}"
)
# Ends nothing with a token.
UNSTOPPED = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"  # noqa: E501


def toy(template: str | None, *, adds_bos: bool = False, eos: str | None = "<|im_end|>"):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, "ĊĊ", "ab"])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ"), ("a", "b")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token=eos)
    made.chat_template = template
    return made


@pytest.fixture(scope="session")
def chatml():
    return toy(CHATML)


@pytest.fixture(scope="session")
def strict():
    return toy(STRICT, adds_bos=True, eos="</s>")


@pytest.fixture(scope="session")
def plain():
    return toy(None, adds_bos=True, eos="</s>")


@pytest.fixture(scope="session")
def opens_otherwise():
    return toy(OPENS_OTHERWISE)


@pytest.fixture(scope="session")
def unstopped():
    return toy(UNSTOPPED)


@pytest.fixture(scope="session")
def endless():
    return toy(None, eos=None)
