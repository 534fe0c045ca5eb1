"""What is taken home loads without this package, and answers as the run does; what does not is said."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

import jupyter_ft
from jupyter_ft.errors import CheckpointError, ExportError, ModelError
from jupyter_ft.session.export import export

from ._runs import finish
from .test_masked import ASKED as MASKED
from .test_masked import TEXTS as MASKED_TEXTS
from .test_scoring import CLASSIFY, REWARD, TEXTS

QUESTION = "Where is order 3?"
HOSTILE = "Be brief. ```\n---\nlicense: mit\n---\n# Owned <script>alert(1)</script> ![x](http://e.vil/x.png)"
NAME = "`<img src=x onerror=1>` [a](javascript:1) | https:www.e.vil.csv"


def loaded(folder: Path, auto: str = "AutoModelForCausalLM", by: str = "transformers") -> Any:
    """As a user loads it: nothing of this package."""
    import importlib

    return getattr(importlib.import_module(by), auto).from_pretrained(folder).eval()


def answered(model: Any, folder: Path, messages: list[dict[str, str]]) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=30, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.fixture
def session(tune: Any, rows: list[dict[str, str]], tmp_path: Path) -> Any:
    """A finished run of 26 steps, edited once, on a file with a hostile name and a hostile system line."""
    with (tmp_path / NAME).open("w", newline="") as file:
        table = csv.DictWriter(file, ("prompt", "completion"))
        table.writeheader()
        table.writerows(rows)
    session = tune(
        data=str(tmp_path / NAME), epochs=2, held_out=8, eval_steps=9, snapshot_steps=9, checkpoint_steps=30,
        learning_rate=1e-2, system=HOSTILE,
    )  # fmt: skip
    session.set(learning_rate=8e-3, step=12).wait(60)
    finish(session)
    return session


@pytest.mark.slow
def test_an_adapter_and_a_merged_model_answer_as_the_run_at_their_step(
    session: Any, tmp_path: Path, tiny_model: Path
) -> None:
    said = {at: session.chat(QUESTION, at=at, max_new_tokens=30) for at in (9, "live", "base")}
    assert len(set(said.values())) == 3  # else this proves little
    adapter, merged = session.export(with_samples=True), session.export(tmp_path / "whole", at=9, format="merged")
    for done, step in ((adapter, session.step), (merged, 9)):
        assert (done.step, done.check.whole, done.check.of) == (step, True, 3)
        assert done.check.largest < 1e-4
        assert "3 of 3 answers the same" in done.said[1]
    turns = [{"role": "system", "content": HOSTILE}, {"role": "user", "content": QUESTION}]
    by_peft = loaded(adapter.folder, "AutoPeftModelForCausalLM", "peft")
    assert answered(by_peft, adapter.folder, turns) == said["live"]
    assert answered(loaded(merged.folder), merged.folder, turns) == said[9]
    assert not (merged.folder / "adapter_config.json").exists()
    cards = [(folder / "README.md").read_text() for folder in (adapter.folder, merged.folder)]
    assert ["On its way." in card for card in cards] == [True, False]
    for card, library in zip(cards, ("peft", "transformers"), strict=True):
        _nothing_hostile_works_in(card, library)
    assert ["| 12 | learning\\_rate | 0.005 | 0.008 |" in card for card in cards] == [True, False]  # not yet at step 9
    _broken_off_leaves_nothing(session, tmp_path, merged.folder)
    _nothing_is_pushed_that_is_not_right(session, tiny_model)


def _nothing_hostile_works_in(card: str, library: str) -> None:
    empty, metadata, body = card.split("---\n", 2)
    assert empty == ""
    about = yaml.safe_load(metadata)
    assert (about.pop("library_name"), about.pop("pipeline_tag")) == (library, "text-generation")
    assert about == {"tags": ["jupyter-ft", "sft", "lora", "trl"]}  # no license, no base that others have not
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    every = [*tokens, *(child for token in tokens for child in token.children or ())]
    assert not {"html_block", "html_inline", "link_open", "image", "hr"} & {token.type for token in every}
    titles = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert titles[0] == "support"
    assert not [title for title in titles if "Owned" in title]
    assert "<img" not in "".join(token.content for token in every if token.type == "html_inline")
    assert "42 rows" in body


def _broken_off_leaves_nothing(session: Any, tmp_path: Path, older: Path) -> None:
    def at_writing(what: str, done: int, total: int) -> None:
        if what == "writing":
            raise KeyboardInterrupt

    before = {file: file.stat().st_mtime_ns for file in older.iterdir()}
    for to, force in ((tmp_path / "new", False), (older, True)):
        with pytest.raises(KeyboardInterrupt):
            session.export(to, format="merged", report=at_writing, force=force)
    assert not (tmp_path / "new").exists()
    assert before == {file: file.stat().st_mtime_ns for file in older.iterdir()}
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ExportError, match=r"--force .* replaces it"):
        session.export(older, format="merged")
    with pytest.raises(ExportError, match="holds something that is no export"):
        session.export(tmp_path, force=True)
    with pytest.raises(CheckpointError, match=r"no weights of step 10; there are: .*9"):
        session.export(tmp_path / "new", at=10)


class Hub:
    """In the place of the hub, at huggingface_hub's own interface: what was asked of it, in order."""

    asked: list[tuple[str, Any]] = []  # noqa: RUF012 - of the class, since each call makes its own

    def whoami(self) -> dict[str, str]:
        return {"name": "ann"}

    def model_info(self, repo: str) -> Any:
        import httpx
        from huggingface_hub.errors import RepositoryNotFoundError

        answer = httpx.Response(404, request=httpx.Request("GET", "https://hub.test"))
        raise RepositoryNotFoundError("none", response=answer)

    def create_repo(self, repo: str, **more: Any) -> str:
        self.asked.append(("create", (repo, more["private"])))
        return f"https://hub.test/{repo}"

    def upload_folder(self, *, folder_path: str, **more: Any) -> None:
        self.asked.append(("upload", {file.name: file.read_text("latin-1") for file in Path(folder_path).iterdir()}))


def _nothing_is_pushed_that_is_not_right(session: Any, tiny_model: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        with pytest.raises(ExportError, match="HF_HUB_OFFLINE=1 forbids pushing"):
            session.push_to_hub("ann/desk")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.get_token", lambda: None)
        with pytest.raises(ExportError, match="no access token"):
            session.push_to_hub("ann/desk")
        with pytest.raises(ExportError, match="write USER/NAME"):
            session.push_to_hub("desk")
        patch.setattr("huggingface_hub.get_token", lambda: "hf_x")
        patch.setattr("huggingface_hub.HfApi", Hub)
        done = session.push_to_hub("ann/desk")
    assert done.said[0] == f"support@{session.step} as adapter: https://hub.test/ann/desk"
    (_, (repo, private)), (_, files) = Hub.asked
    assert (repo, private) == ("ann/desk", True)
    assert "3 of 3 answers the same" in files["README.md"]
    ours = str(tiny_model.parent), str(session.folder.parent)
    assert not [name for name, text in files.items() if any(path in text for path in ours)]


@pytest.mark.slow
def test_exporting_leaves_a_run_that_goes_on_as_it_is(tune: Any) -> None:
    settings = {"epochs": 2, "dropout": 0.1, "snapshot_steps": 5}
    alone = finish(tune("alone", **settings))
    session = tune("beside", **settings)
    session.wait(step=11, timeout=60)
    kept, live = session.export(at=5), session.export(format="merged")
    assert (kept.step, kept.check.whole) == (5, True)
    assert 11 <= live.step <= session.total_steps
    assert finish(session) == alone


@pytest.mark.slow
@pytest.mark.parametrize("asked", [CLASSIFY, REWARD], ids=["classification", "reward"])
def test_what_scores_scores_the_same_without_this_package(tune: Any, asked: dict[str, Any]) -> None:
    import torch
    from transformers import AutoTokenizer

    session = tune("judge", **asked)
    finish(session)
    for form in ("adapter", "merged"):
        done = session.export(format=form)
        assert done.check.whole
        assert done.check.largest < 1e-5
    with pytest.raises(ExportError, match="--as gguf is for models that write, and 'judge' does not"):
        session.export(format="gguf")
    if asked is CLASSIFY:
        model, tokenizer = (
            loaded(done.folder, "AutoModelForSequenceClassification"),
            AutoTokenizer.from_pretrained(done.folder),
        )
        with torch.no_grad():
            shares = model(**tokenizer(TEXTS[1]["text"], return_tensors="pt")).logits[0].softmax(-1)
        scores = session.chat(TEXTS[1]["text"]).scores
        assert [scores[model.config.id2label[n]] for n in range(2)] == pytest.approx(shares.tolist(), abs=1e-5)


@pytest.mark.slow
def test_an_encoder_guesses_the_same_words(tiny_bert: Path) -> None:
    session = jupyter_ft.finetune(str(tiny_bert), MASKED_TEXTS, "guesser", **MASKED | {"epochs": 1})
    finish(session)
    for form in ("adapter", "merged"):
        done = session.export(format=form)
        assert (done.check.same, done.check.of, done.check.what) == (3, 3, "probabilities of the words")
        assert done.check.largest < 1e-5
    with pytest.raises(ExportError, match="for models that write"):
        session.export(format="ollama")


@pytest.mark.slow
def test_full_weights_and_a_quantised_base_are_whole_models(tune: Any, tiny_model: Path, tmp_path: Path) -> None:
    full = tune("full", adapter="full", max_steps=3)
    finish(full)
    done = full.export()
    assert (done.form, done.check.whole, done.check.largest) == ("merged", True, 0.0)
    with pytest.raises(ExportError, match="there is no adapter: --as merged"):
        full.export(format="adapter")
    small = tune("small", quantization="nf4", max_steps=6, learning_rate=1e-2)
    finish(small)
    done = small.export(format="merged")
    assert done.check.whole
    assert done.check.largest < 1e-4
    assert done.notes == ("the base was nf4: dequantised, and merged in float32",)
    os.utime(tiny_model / "model.safetensors", (2**33, 2**33))
    try:
        assert "the base is newer than the run" in small.export(tmp_path / "newer").notes[0]
    finally:
        os.utime(tiny_model / "model.safetensors")
    small.close()  # a run that is not open is exported too, and not open afterwards
    with pytest.raises(ExportError, match="is there already"):
        export("small", form="merged")
    assert "small" not in jupyter_ft.sessions
    tiny_model.rename(tiny_model.with_name("away"))
    try:
        with pytest.raises(ModelError, match="is neither a folder nor a hub id"):
            export("small", tmp_path / "small", "merged")
        assert not (tmp_path / "small").exists()
    finally:
        tiny_model.with_name("away").rename(tiny_model)


@pytest.mark.slow
def test_what_rounding_changes_is_said_and_not_pushed(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tune(dtype="bfloat16", learning_rate=1e-2, probes=[f"Where is order {n}?" for n in range(3)])
    finish(session)
    done = session.export(format="merged")
    assert done.check.largest > 1e-3
    assert f"{done.check.same} of 3 answers the same; largest difference of the logits 0.0" in done.check.said
    assert "(merged in bfloat16, which rounds)" in done.check.said
