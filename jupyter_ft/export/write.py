"""An export from beginning to end: what can be wrong is found first, then it is written, loaded again and published."""

from __future__ import annotations

import calendar
import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..building import shards
from ..control.memory import free_memory
from ..errors import CheckpointError, ExportError
from ..memory.fit import size_text
from ..runs import copy_weights
from . import gguf
from .card import Told, card
from .check import Answer, Check, compare, own_answers
from .hub import push
from .merge import bytes_of, merged, write_model
from .ollama import ARCHITECTURES, modelfile
from .origin import Origin, Report
from .place import check_free, check_room, keep_record, published, size_of

FORMS = ("adapter", "merged", "gguf", "ollama")
_SCRATCH = ".weights"  # in the folder that is being written: the weights of the step, and what is only on the way


@dataclass(frozen=True)
class Exported:
    """A folder that was written and loaded again; a path for whoever takes one. `said` are the lines to tell of it."""

    folder: Path
    form: str
    run: str
    step: int
    size: int
    check: Check
    notes: tuple[str, ...] = ()
    address: str = ""

    @property
    def said(self) -> list[str]:
        """What it is, how it compares, what is to be known."""
        where = self.address or f"{self.folder} ({size_text(self.size)})"
        return [f"{self.run}@{self.step} as {self.form}: {where}", self.check.said, *self.notes]

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return "\n".join(self.said)


@dataclass(frozen=True)
class Wanted:
    """What an export is to be: where, in which form, and the `repo` on the hub that it is pushed to, if any.

    `unlike`: it is pushed also where it does not answer as the run does.
    """

    to: Path
    form: str
    force: bool = False
    quantize: str | None = None
    repo: str = ""
    public: bool = False
    unlike: bool = False


def form_of(asked: str | None, *, full: bool, speaks: bool, name: str, quantize: str | None) -> str:
    """The form of an export; without a wish the adapter, or of full weights the model. `ExportError` for none."""
    form = ("merged" if full else "adapter") if asked is None else "merged" if asked == "model" else asked
    if form not in FORMS:
        raise ExportError(f"--as {form[:40]}: there are {', '.join(FORMS)}")
    if form == "adapter" and full:
        raise ExportError(f"'{name}' trained every weight, so there is no adapter: --as merged gives the model")
    if form in ("gguf", "ollama") and not speaks:
        raise ExportError(f"--as {form} is for models that write, and '{name}' does not: --as merged, or adapter")
    if quantize is not None and form not in ("gguf", "ollama"):
        raise ExportError(f"--quantize is for gguf and ollama, not for {form}")
    if form == "gguf" or (form == "ollama" and quantize is not None):
        gguf.check_tools(quantize)
    return form


def write(origin: Origin, told: Told, wanted: Wanted, report: Report) -> Exported:
    """Export, load again, compare, publish. `ExportError`, `ModelError` or `CheckpointError`; nothing is left then."""
    check_free(wanted.to, force=wanted.force)
    whole = bytes_of(origin.base)
    times = {"adapter": 0, "merged": 1}.get(wanted.form, 1 if gguf.converter() is None else 3)
    check_room(wanted.to, times * whole + 2 * size_of(origin.weights))
    with published(wanted.to, force=wanted.force) as staging:
        weights = staging / _SCRATCH
        try:
            copy_weights(origin.weights, weights)  # the run may let go of them meanwhile
        except FileNotFoundError:
            raise CheckpointError(f"'{origin.name}' no longer keeps step {origin.step}; export again") from None
        origin, own = own_answers(origin, weights, report)
        making = _Making(origin, own, wanted, staging, weights, report)
        check, notes = making.adapter() if wanted.form == "adapter" else making.model()
        shutil.rmtree(weights)
        notes += _of_newer_base(origin, told)
        checked = [check.said, *notes]
        text = card(origin, told, wanted.form, checked, wanted.repo or "PATH/OF/THIS/FOLDER")
        (staging / "README.md").write_text(text, encoding="utf-8")
        keep_record(
            staging,
            {
                "run": origin.name,
                "step": origin.step,
                "as": wanted.form,
                "checked": checked,
                "jupyter_ft": __version__,
            },
        )
        address = _push(origin, wanted, staging, check, report) if wanted.repo else ""
    free_memory()  # what was loaded refers to itself in circles
    folder = wanted.to.resolve()
    return Exported(folder, wanted.form, origin.name, origin.step, size_of(folder), check, tuple(notes), address)


def _of_newer_base(origin: Origin, told: Told) -> list[str]:
    """What is to be said where the base, a folder of one's own, was written to after the run began."""
    started = str(told.about.get("started", ""))
    with suppress(ValueError, OSError):
        began = calendar.timegm(time.strptime(started, "%Y-%m-%dT%H:%M:%SZ"))
        newest = max((file.stat().st_mtime for file in shards(Path(origin.base.path))), default=0.0)
        if origin.hub_base is None and newest > began + 1:
            return ["the base is newer than the run: where it holds other weights, this is not what was trained"]
    return []


def _push(origin: Origin, wanted: Wanted, folder: Path, check: Check, report: Report) -> str:
    if not check.whole and not wanted.unlike:
        raise ExportError(f"not pushed, since it does not answer as the run does ({check.said}); --force pushes it")
    return push(folder, wanted.repo, f"{origin.name} at step {origin.step}", report, public=wanted.public)


@dataclass(frozen=True)
class _Making:
    """The files of an export in `staging`, and what is to be said of them."""

    origin: Origin
    own: list[Answer]
    wanted: Wanted
    staging: Path
    weights: Path
    report: Report

    def adapter(self) -> tuple[Check, list[str]]:
        """PEFT's own format, with the tokenizer."""
        origin, notes = self.origin, []
        copy_weights(self.weights, self.staging)
        self._name_base()
        self._tokenizer(self.staging)
        if origin.hub_base is None and self.wanted.repo:
            name = Path(origin.recipe.model).name
            notes.append(f"its base is the folder {name}, which others do not have: --as merged goes without it")
        return compare(origin, self.own, self.staging, "adapter", self.report), notes

    def _name_base(self) -> None:
        """The base that the adapter is to be loaded over, by its hub id where others are to find it."""
        file, hub = self.staging / "adapter_config.json", self.origin.hub_base
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if hub is not None and (self.origin.recipe.model != "demo" or self.wanted.repo):
            said["base_model_name_or_path"], said["revision"] = hub
        elif self.wanted.repo:
            said["base_model_name_or_path"] = Path(self.origin.recipe.model).name
        else:
            said["base_model_name_or_path"], said["revision"] = self.origin.base.path, None
        file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")

    def _tokenizer(self, folder: Path) -> None:
        self.origin.base.new_tokenizer().save_pretrained(str(folder))

    def model(self) -> tuple[Check, list[str]]:
        """The whole model, as it is or in GGUF."""
        origin, form = self.origin, self.wanted.form
        as_gguf = form == "gguf" or (form == "ollama" and self._by_converter())
        folder = self.weights / "model" if as_gguf else self.staging
        model = merged(origin.base, origin.recipe, origin.judging, self.weights, self.report)
        ends = _ends(model)
        self.report("writing", 0, 0)
        write_model(model, origin.base, folder)
        del model
        self._tokenizer(folder)
        notes = [*self._of_base()]
        if as_gguf:
            name, quantize = f"{origin.name}-{origin.step}", self.wanted.quantize
            file = gguf.convert(folder, self.staging, name, quantize, self.report)
            check = self._check_gguf(file, folder)
        else:
            file, check = None, compare(origin, self.own, folder, "model", self.report, why=self._rounding())
        if form == "ollama":
            notes += self._modelfile(file, ends)
        return check, notes

    def _by_converter(self) -> bool:
        """Whether an Ollama model goes by GGUF; where no converter is, Ollama reads safetensors of some models."""
        if gguf.converter() is not None:
            return True
        kind = str((self.origin.base.model.config.architectures or [""])[0]).removesuffix("ForCausalLM")
        if kind not in ARCHITECTURES:
            raise ExportError(f"Ollama reads no safetensors of a {kind}, and {gguf.INSTALL}")
        return False

    def _check_gguf(self, file: Path, model: Path) -> Check:
        """By transformers, which reads GGUF back; the tokenizer is the one beside the model it was made from."""
        there = model / file.name
        file.rename(there)
        try:
            return compare(self.origin, self.own, model, file.name, self.report, why="GGUF rounds")
        finally:
            there.rename(file)

    def _modelfile(self, file: Path | None, ends: list[int]) -> list[str]:
        weights = "." if file is None else f"./{file.name}"
        text, note = modelfile(weights, self.origin.base.new_tokenizer(), ends, self.origin.recipe.system)
        (self.staging / "Modelfile").write_text(text, encoding="utf-8")
        how = f"in that folder: ollama create {self.origin.name.lower()}"
        loose = " --quantize q4_K_M makes it smaller" if file is None else ""
        return [how + (f";{loose}" if loose else ""), *([note] if note else [])]

    def _of_base(self) -> list[str]:
        kind = self.origin.base.quantization
        return [f"the base was {kind}: dequantised, and merged in {_dtype(self.origin)}"] if kind != "none" else []

    def _rounding(self) -> str:
        if self.origin.base.quantization == "int8":
            return "8-bit layers also round what goes through them"
        half = _dtype(self.origin) in ("bfloat16", "float16")
        return f"merged in {_dtype(self.origin)}, which rounds" if half and not self.origin.full else ""


def _dtype(origin: Origin) -> str:
    return str(origin.dtype).removeprefix("torch.")


def _ends(model: Any) -> list[int]:
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [end for end in (declared if isinstance(declared, list) else [declared]) if end is not None]
