"""The parts of an export that are files and other people's tools: places, GGUF, Modelfiles."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_ft.errors import ExportError
from jupyter_ft.export import gguf
from jupyter_ft.export.hub import check_push
from jupyter_ft.export.ollama import modelfile, template_of
from jupyter_ft.export.place import check_room, keep_record, published
from jupyter_ft.export.write import form_of

from .conftest import CHATML

LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} "
    "[/INST]{% elif message['role'] == 'system' %}<<SYS>>{{ message['content'] }}<</SYS>>{% else %}"
    "{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
BRACES = CHATML.replace("<|im_start|>", "{{ '{{' }}")
COUNTING = "{% for message in messages %}{{ loop.index }}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def in_go(template: str, system: str, turns: list[tuple[str, str]]) -> str:
    """What Ollama makes of a template that has only the conditions and the loop that are written here."""
    literal = re.escape('{{ "{{" }}')
    head, loop, answer = re.split(r"\{\{ range \.Messages \}\}|\{\{ end \}\}\{\{ end \}\}", template)
    with_system, without = re.fullmatch(
        r"\{\{ if \.System \}\}(.*)\{\{ else \}\}(.*)\{\{ end \}\}", head, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    user, assistant = re.fullmatch(
        r'\{\{ if eq \.Role "user" \}\}(.*)\{\{ else if eq \.Role "assistant" \}\}(.*)', loop, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    around = {"user": user, "assistant": assistant}
    parts = [with_system.replace("{{ .System }}", system) if system else without]
    parts += [around[role].replace("{{ .Content }}", said) for role, said in turns]
    return re.sub(literal, "{{", "".join([*parts, answer]))


@pytest.mark.parametrize("jinja", [CHATML, LLAMA2, BRACES], ids=["chatml", "llama2", "braces"])
def test_a_modelfile_writes_conversations_as_the_tokenizer_does(tokenizer: Any, jinja: str) -> None:
    tokenizer.chat_template = jinja
    text, note = modelfile("./a.gguf", tokenizer, [2, None], "Be brief.\nFROM /etc/passwd")
    assert note == ""
    assert text.startswith('FROM ./a.gguf\nTEMPLATE """')
    assert 'SYSTEM """Be brief.\nFROM /etc/passwd"""\nPARAMETER stop "<|im_end|>"\n' in text
    template = text.split('"""')[1]
    for system in ("", "Be kind."):
        turns = [("user", "One"), ("assistant", "Two"), ("user", "Three, {now}?")]
        asked = [{"role": role, "content": said} for role, said in [("system", system), *turns] if said]
        wanted = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert in_go(template, system, turns) == wanted


def test_a_template_that_cannot_be_carried_over_is_left_out_and_said(tokenizer: Any) -> None:
    tokenizer.chat_template = COUNTING
    assert template_of(tokenizer) is None
    text, note = modelfile(".", tokenizer, [2], None)
    assert "TEMPLATE" not in text
    assert "could not be carried over" in note
    with pytest.raises(ExportError, match="cannot hold"):
        modelfile(".", tokenizer, [2], 'Say """ often')


def _tool(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    file.chmod(0o755)


def test_tools_that_are_not_there_or_fail_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    with pytest.raises(ExportError, match=r"converter, which is not installed: install llama\.cpp"):
        gguf.check_tools(None)
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "none"))
    with pytest.raises(ExportError, match=r"not installed \(no convert_hf_to_gguf\.py in LLAMA_CPP="):
        gguf.check_tools(None)
    monkeypatch.delenv("LLAMA_CPP")
    _tool(tmp_path, "convert_hf_to_gguf.py", "open(sys.argv[3], 'w').write(' '.join(sys.argv[1:]))")
    with pytest.raises(ExportError, match="needs llama-quantize"):
        gguf.check_tools("Q4_K_M")
    with pytest.raises(ExportError, match="no type of GGUF"):
        gguf.check_tools("tiny; rm -rf /")
    _tool(tmp_path, "llama-quantize", "open(sys.argv[2], 'w').write(open(sys.argv[1]).read() + sys.argv[3])")
    gguf.check_tools("q4_k_m")
    made = gguf.convert(tmp_path, tmp_path, "desk", "q4_k_m", lambda *_: None)
    assert made.name == "desk-Q4_K_M.gguf"
    assert made.read_text() == f"{tmp_path} --outfile {tmp_path / 'desk.gguf'} --outtype autoQ4_K_M"
    assert not (tmp_path / "desk.gguf").exists()
    _tool(tmp_path, "convert_hf_to_gguf.py", "raise NotImplementedError('BPE pre-tokenizer was not recognized')")
    with pytest.raises(ExportError, match=r"failed \(1\): NotImplementedError: BPE pre-tokenizer"):
        gguf.convert(tmp_path, tmp_path, "desk", None, lambda *_: None)


def test_a_place_is_whole_or_as_it_was(tmp_path: Path) -> None:
    to = tmp_path / "a" / "b"

    def break_off(error: BaseException, *, force: bool = False) -> None:
        with published(to, force=force) as staging:
            (staging / "half").write_text("x")
            raise error

    with pytest.raises(KeyboardInterrupt):
        break_off(KeyboardInterrupt())
    assert not to.exists()
    for words in ("one", "two"):
        with published(to, force=words == "two") as staging:
            (staging / "text").write_text(words)
            keep_record(staging, {})
    with pytest.raises(ExportError, match="No space left"):
        break_off(OSError(28, "No space left on device"), force=True)
    assert (to / "text").read_text() == "two"
    assert [file.name for file in to.parent.iterdir()] == ["b"]
    with pytest.raises(ExportError, match=r"c will take .* are free there; make room"):
        check_room(tmp_path / "c", 2**60)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"asked": "zip"}, "--as zip: there are adapter, merged, gguf, ollama"),
        ({"asked": "gguf", "speaks": False}, "for models that write"),
        ({"asked": "adapter", "full": True}, "no adapter: --as merged"),
        ({"asked": "merged", "quantize": "q8_0"}, "--quantize is for gguf and ollama"),
    ],
)
def test_forms_that_cannot_be(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=re.escape(said)):
        form_of(**{"full": False, "speaks": True, "name": "desk", "quantize": None} | asked)


def test_a_public_repository_is_not_pushed_to_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = SimpleNamespace(whoami=lambda: {}, model_info=lambda repo: SimpleNamespace(private=False))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    with pytest.raises(ExportError, match="ann/desk is there and public: --public"):
        check_push("ann/desk", public=False)
    check_push("ann/desk", public=True)

    def away() -> None:
        raise ConnectionError("no route")

    hub.whoami = away
    with pytest.raises(ExportError, match="the hub cannot be reached"):
        check_push("ann/desk", public=True)
