"""The text of a replay: comments, the functions that the run was given, its recipe, its edits, and the comparison."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any, NamedTuple

from .._version import __version__
from ..data import is_feedback
from ..hyperparameters import REWARDED
from ..messages import Applied
from ..recipe import Recipe
from ..sampling.squad import BUILT_IN

if TYPE_CHECKING:
    from .replay import Story

WIDE = 100
_IMPORT = re.compile(r"(from [\w.]+ )?import [\w.]+ as \w+")
_NO_QUOTES = str.maketrans({'"': "'", "\\": "/"})  # a docstring ends where it is to end
_TRAINERS = {
    "sft": "TRL's SFTTrainer",
    "cpt": "TRL's SFTTrainer (an encoder: transformers' Trainer)",
    "classification": "transformers' Trainer",
    "dpo": "TRL's DPOTrainer",
    "kto": "TRL's KTOTrainer",
    "reward": "TRL's RewardTrainer",
    "grpo": "TRL's GRPOTrainer",
    "rloo": "TRL's RLOOTrainer",
}
_APART = ("hyperparameters", "data", "model", "start_from", "seed", "dtype", "metrics", "rewards", "adapter")


def script(told: Story, files: str) -> str:
    """The whole script; what it needs is in the folder `files` beside it."""
    parts = [_head(told), _imports(told, files), *_functions(told), _edits(told), *_run(told), _COMPARED]
    text = "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
    ast.parse(text, "replay.py")
    return text


def _head(told: Story) -> str:
    name, about, step = told.folder.name, told.about, len(told.losses)
    of = f" of {told.total}" if told.total else ""
    name, began = (_one_line(str(word)).translate(_NO_QUOTES) for word in (name, about.get("started", "some time")))
    lines = [
        f'"""Trains the run {name!r} again as it went, with every change that was made to it by hand.',
        "",
        "On the same machine and with the same packages a run in float32 gives the same losses, bit for bit.",
        f"It began {began} and is {told.state} at step {step}{of};",
        f"trained by {_TRAINERS[told.recipe.method]} under jupyter-ft's port, which makes the edits between two steps.",
        f'Written {_when(time.time())} by jupyter-ft {__version__}, from the run folder alone."""',
    ]
    return "\n".join(lines)


def _imports(told: Story, files: str) -> str:
    about, machine = told.about, told.machine
    versions = {**(about.get("versions") or {}), "jupyter-ft": about.get("jupyter_ft", __version__)}
    threads = (
        f"torch.set_num_threads({machine['threads']})  # more or fewer add up in another order\n" if machine else ""
    )
    device = (
        f"""
now = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
if now != {machine["device"]!r}:
    print(f"warning: the run was trained on {{{machine["device"]!r}}}, this is {{now}}: the last bits may differ")
"""
        if machine
        else ""
    )
    return f"""from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

# Where the runs are, and where this one goes, unless the environment says otherwise.
os.environ.setdefault("JUPYTER_FT_RUNS", {str(told.folder.path.parent)!r})

import torch

import jupyter_ft

FILES = Path(__file__).resolve().with_name({files!r})  # what the run had from the notebook, and its losses

# The packages that it was trained with.
VERSIONS = {_plain(versions)}
for package, then in VERSIONS.items():
    if version(package) != then:
        print(f"warning: {{package}} was {{then}} and is {{version(package)}}: the last bits of the losses may differ")
{threads}{device}"""


# --- functions of the notebook ----------------------------------------------------------------------------------------


def _functions(told: Story) -> list[str]:
    """The definitions, each as its source was when the run began, or a line that says what is missing."""
    parts, recipe, about = [], told.recipe, told.about
    for kind, names in (("metrics", recipe.metrics), ("rewards", recipe.rewards)):
        known = about.get(kind) or {}
        for name in names:
            one = known.get(name) or {}
            if "folder" not in one and name not in BUILT_IN:
                imports = [str(line) for line in one.get("imports") or () if _IMPORT.fullmatch(str(line))]
                source = textwrap.dedent(str(one.get("source") or "")).strip()
                parts.append(_function(kind, name, source, imports, told.folder.name))
    return parts


def _function(kind: str, name: str, source: str, imports: list[str], run: str) -> str:
    missing = _unknown_names("\n".join([*imports, source]), name)
    if missing is None:
        words = "a reward" if kind == "rewards" else "a metric"
        said = f"{name} was {words} of '{run}' and its source is not known: define it here, and delete this line"
        signature = "completions, **columns" if kind == "rewards" else "prompts, predictions, references, **columns"
        return f"# TO DO: {name}\nraise SystemExit({said!r})\n\n\ndef {name}({signature}): ..."
    lines = [f"# {'A reward' if kind == 'rewards' else 'A metric'}, as it was defined when the run began."]
    if missing:
        said = f"{name} takes {', '.join(missing)} from the notebook: define that here, and delete this line"
        lines += [f"# TO DO: what {name} takes from the notebook", f"raise SystemExit({said!r})", ""]
    return "\n".join([*lines, *imports, source])


def _unknown_names(source: str, name: str) -> list[str] | None:
    """What a function takes from elsewhere; None where `source` does not define `name`."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]
    if not defined:
        return None
    for node in list(ast.walk(tree)):  # annotations are not evaluated
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    bound, used = set(dir(builtins)) | own, dict[str, None]()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                used[node.id] = None
            else:
                bound.add(node.id)
    return [one for one in used if one not in bound]


# --- what was done by hand --------------------------------------------------------------------------------------------


def _edits(told: Story) -> str:
    comments = [
        "What was changed by hand, each at the first step that used it. All of it is known to the run before its first",
        "step, so no change can come too late; session.set(step=N, …) in a notebook is the same.",
        *_fork(told),
        *_rewinds(told),
        *_resumptions(told),
    ]
    lines = [f"# {_one_line(comment)}" for comment in comments]
    edits = [line for edit in told.edits for line in _edit(edit)]
    return "\n".join([*lines, "EDITS = [", *edits, "]" if edits else "]  # nothing was changed"])


def _edit(edit: Applied) -> Iterator[str]:
    moved = ", ".join(f"{key} {old} → {new}" for key, (old, new) in edit.changes.items())
    yield f"    # {_when(edit.time)}: {_one_line(moved)}"
    yield f"    {_dict({'step': edit.step, **{key: new for key, (_, new) in edit.changes.items()}})},"


def _fork(told: Story) -> list[str]:
    fork = told.about.get("fork")
    if not fork:
        return []
    changed = ", ".join(f"{key} = {value}" for key, value in (fork.get("changes") or {}).items()) or "nothing changed"
    said = [
        f"Steps 1 to {fork['step']} are those of '{fork['run']}', with its edits; from there it is a fork: {changed}."
    ]
    if told.fresh:
        at = ", ".join(map(str, told.fresh))
        said.append(f"After step {at} it went on from the weights alone, with a fresh optimizer: there it is forked.")
    return said


def _rewinds(told: Story) -> list[str]:
    said = []
    for taken in told.taken_back:
        steps = f"steps {taken.step + 1} to {taken.last}" if taken.last else f"the steps after {taken.step}"
        edits = "; ".join(
            f"step {edit.step}: " + ", ".join(f"{key} {old} → {new}" for key, (old, new) in edit.changes.items())
            for edit in taken.edits
        )
        said.append(f"Left out, taken back {_when(taken.time)}: {steps}, with {edits or 'no edit'}.")
    return said


def _resumptions(told: Story) -> list[str]:
    at = ", ".join(dict.fromkeys(str(event.step) for event in told.resumed))  # twice at one, where it was killed again
    said = [f"It was resumed at step {at}, which leaves no trace in the losses."] if at else []
    lines = told.joined.read_text(encoding="utf-8").splitlines() if told.joined.is_file() else []
    joined = [one for one in _read(lines) if one.get("rows")]
    return said + [
        f"Before step {one['step'] + 1} {len(one['rows'])} rows joined, judged meanwhile: they are in joined.jsonl."
        for one in joined
    ]


def _read(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    import json

    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # torn by a kill
            return


# --- the run ----------------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """An argument in the source of a call, and what to say of it."""

    source: str
    note: str = ""


def _run(told: Story) -> Iterator[str]:
    """The calls that train it: one, and a fork wherever the optimizer began anew."""
    given = _origin(told) | _rows(told)
    given["name"] = Given("")  # its place
    given |= {key: Given(_plain(value)) for key, value in settings(told.recipe).items()}
    given |= _held_out(told) | _named(told)
    about = "# The recipe; what is not given is as the package has it. Returns at once, and trains in the background."
    call = "jupyter_ft.finetune"
    for after, until in zip([0, *told.fresh], [*told.fresh, None], strict=True):
        if after:
            about = "# From the weights alone: a fresh optimizer, which warms up, and what is drawn begins at the seed."
            call, given = "session.fork", {"name": Given(""), "at": Given(f"{after}"), "fresh_optimizer": Given("True")}
        yield "\n".join([about, *_call(call, given | _part(told, after, until))]) + f"\n\n{_wait(told)}"


def _call(what: str, given: Mapping[str, Given]) -> Iterator[str]:
    yield f"session = {what}("
    for key, one in given.items():
        yield f"    {key}={one.source}," + (f"  # {_one_line(one.note)}" if one.note else "")
    yield ")"


def _part(told: Story, after: int, until: int | None) -> dict[str, Given]:
    """What the steps after `after` and up to `until` (None: the last one) are called, and are given by hand."""
    name = f"{told.folder.name}-replay"
    least, most = [f"{after} < "] if after else [], [f" <= {until}"] if until else []
    within = "".join([*least, 'edit["step"]', *most])
    edits = f"[edit for edit in EDITS if {within}]" if least or most else "EDITS"
    part = {"name": Given(repr(f"{name}-to-{until}" if until else name)), "edits": Given(edits)}
    if until:
        return part | {"until": Given(f"{until}", "there it is forked")}
    return part | ({"until": Given(f"{len(told.losses)}", "it went no further")} if told.state != "finished" else {})


def settings(recipe: Recipe) -> dict[str, Any]:
    """What decides a run, as `finetune` takes it: seed, dtype, adapter and learning rate always, else what is given."""
    plain = recipe.model_dump(mode="json", exclude_defaults=True, exclude=set(_APART))
    live = recipe.hyperparameters
    if recipe.start_from is not None:  # what is left out would be the parent's
        plain |= recipe.model_dump(mode="json", include={"system", "max_length", "quantization"})
    plain |= {"seed": recipe.seed, "dtype": recipe.dtype, "adapter": recipe.adapter.model_dump(mode="json")}
    plain["learning_rate"] = live.learning_rate
    if recipe.start_from is not None and recipe.adapter.kind != "full":
        plain["alpha"] = live.alpha
    return plain | live.model_dump(mode="json", exclude_defaults=True, exclude={"reward_weights", "learning_rate"})


def _origin(told: Story) -> dict[str, Given]:
    """The model, or the weights of another run, which the run folder keeps."""
    if told.recipe.start_from is not None:
        before = told.about.get("parent") or {}
        said = f"the weights of '{before.get('run')}' at step {before.get('step')}, which the run folder keeps"
        return {"start_from": Given(repr(f"{told.folder.name}@start"), said)}
    folder = Path(told.recipe.model).expanduser()
    model = str(folder.resolve()) if told.recipe.model != "demo" and folder.is_dir() else told.recipe.model
    return {"model": Given(repr(model))}


def _rows(told: Story) -> dict[str, Given]:
    """The rows: the files again, checked by what they held, or those that are written beside the script."""
    data = told.about["data"]
    if told.folder.rows.is_file():
        where = "judgements" if is_feedback(told.recipe.data) else "an object of the notebook"
        return {"data": Given(f"str(FILES / {told.folder.rows.name!r})", f"{where}, as the run had it")}
    apart = list((data.get("held_out") or {}).values())
    prints = {"data": data["fingerprint"]} | ({"held_out": apart[0]} if apart else {})
    return {"data": Given(_plain(data["path"])), "fingerprints": Given(_plain(prints), "SHA-256 of the rows")}


def _held_out(told: Story) -> dict[str, Given]:
    """Another file that is held out, wherever the script is run."""
    apart = told.recipe.held_out
    again = isinstance(apart, str) and not told.folder.rows.is_file() and Path(apart).expanduser().is_file()
    return {"held_out": Given(repr(str(Path(str(apart)).expanduser().resolve())))} if again else {}


def _named(told: Story) -> dict[str, Given]:
    """Metrics and rewards: functions by their name, our own words and reward runs in quotes."""
    recipe, about, found = told.recipe, told.about, dict[str, Given]()
    if recipe.metrics:
        ours = [name for name in recipe.metrics if name in BUILT_IN or not name.isidentifier()]
        names = [repr(name) if name in ours else name for name in recipe.metrics]
        found["metrics"] = Given(f"[{', '.join(names)}]")
    if recipe.method in REWARDED:
        known = about.get("rewards") or {}
        names = [_reward(name, known.get(name) or {}) for name in recipe.rewards]
        found["rewards"] = Given(f"[{', '.join(names)}]")
        found["reward_weights"] = Given(_plain(list(getattr(recipe.hyperparameters, "reward_weights", ()))))
    return found


def _reward(name: str, known: Mapping[str, Any]) -> str:
    if "folder" in known:
        return repr(f"{known['run']}@{known['step']}")
    return name if name.isidentifier() else repr(name)


def _wait(told: Story) -> str:
    pauses = ", ".join(str(pause.step) for pause in told.pauses)
    said = f"It paused by itself at step {pauses}, and was told to go on."
    if told.about.get("fork"):  # its log does not tell of its parent's pauses
        said = "Where it pauses by itself, as the run may have done before it was forked, it is told to go on."
    elif not pauses:
        return "session.wait()"
    return f"""# {said}
while session.state not in ("finished", "stopped"):
    try:
        session.wait()
    except jupyter_ft.TrainingFailed:
        if session.state != "paused":
            raise
        session.resume().wait()"""


_COMPARED = """then = json.loads((FILES / "losses.json").read_text())
now = [float(loss) for loss in session.metrics["loss"]]
same = [a == b or (a != a and b != b) for a, b in zip(then, now)]
if all(same) and len(then) == len(now):
    print(f"the same losses, bit for bit, over {len(now)} steps")
else:
    first = same.index(False) + 1 if not all(same) else min(len(then), len(now)) + 1
    raise SystemExit(f"the losses differ from step {first} on (of {len(then)} steps then and {len(now)} now)")"""


# --- words ------------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> str:
    text = pformat(value, width=WIDE, sort_dicts=False)
    return text.replace("\n", "\n    ")


def _dict(value: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key!r}: {inner!r}" for key, inner in value.items()) + "}"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _one_line(text: str, most: int = 400) -> str:
    """A comment stays one, whatever a name or a value says."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    return flat if len(flat) <= most else f"{flat[:most]}…"
