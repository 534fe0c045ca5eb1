"""`attach`: a session over a trainer that the user built. The notebook's own lines after it mean what they meant."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

from ..errors import Refused, RunFolderError
from ..event_log import EventLog
from ..launch.thread import start
from ..messages import ChatWaits, Resume, StateChanged
from ..recipe import Recipe
from ..runs import RunFolder, check_name
from .handle import Session
from .registry import sessions
from .start import _difference, about_run, free_name, open_run, refuse_live

if TYPE_CHECKING:
    from ..launch.attached import AttachedRun

SERVED = ("evaluate", "predict", "save_model")
SERVED_BY_MODEL = ("save_pretrained", "generate")


class StillTraining(KeyboardInterrupt):
    """Ctrl-C in `trainer.train()`: the cell ends, the run goes on. A notebook shows its one line."""

    def __init__(self, session: Session) -> None:
        of = f" of {session.total_steps}" if session.total_steps else ""
        super().__init__(
            f"{session.name} goes on training (step {session.step}{of}): trainer.train() waits for it again, "
            f"%ft stop {session.name} ends it"
        )

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Attached(Session):
    """The session of a trainer that the user built."""

    def begin(self, run: AttachedRun, resume: str | None) -> None:
        """Start training in the background."""
        self._inbox = run.inbox
        self._gate = gate = self.views.cell_end() if self.views is not None else None

        def live() -> StateChanged:
            _wait_for_cell(gate)
            return run.live(resume)

        self.log.append(StateChanged(state="queued", note="going on from the newest checkpoint" if resume else ""))
        start(live, self.name, self.log, after=self._refuse_late_questions)


def _wait_for_cell(gate: threading.Event | None) -> None:
    if gate is not None:
        gate.wait(1.0)  # the cell returns first, then the run speaks


def attach(trainer: Any, name: str = "attached", *, resume: bool = False, room: int | None = None) -> Session:
    """Train `trainer` (a `transformers.Trainer` or TRL's) in the background and return its `Session` at once.

    `trainer.train()` then waits for the run and returns its `TrainOutput`; `evaluate`, `predict`, `save_model`,
    `model.save_pretrained` and `model.generate` are served between two steps. `resume` goes on with the run of that
    name, with a trainer that is built the same way. `room`: bytes for chat's copies of the trained weights and what
    training will take beside them (None: what is free); where it is too little, the run waits while a reply is spoken.
    Raises `Refused`, `RecipeError` or `RunFolderError`.
    """
    from ..control.accelerated import take_over
    from ..control.lease import Streams
    from ..control.served import Served, ServingInbox
    from ..launch.attached import AttachedRun, check, recipe_of
    from ..launch.voices import chat_waits
    from ..quantized import keep_unpacked
    from ..sampling.attached_twin import changed_elsewhere, judging_of, voices_for, why_silent

    wanted = check_name(name)
    check(trainer)
    recipe = recipe_of(trainer)
    refuse_live(wanted, replace=False)
    keep_unpacked(trainer.model)
    judging = judging_of(trainer)
    silent = why_silent(trainer.model, trainer.processing_class, judging)
    session = _go_on(wanted, recipe) if resume else _create(wanted, recipe)
    inbox, command, voices = ServingInbox(), Resume(), None
    if silent:
        session._chat.close(f"chat: {silent}")
    else:
        find = session.run_folder.visit
        why = changed_elsewhere(trainer)
        voices = voices_for(trainer.model, trainer.processing_class, find, inbox.nudge, room, why=why)
        voices.judging = judging
        if judging is not None and not (judging.labels or judging.plain or judging.masks):
            session._chat.take_answers()
    run = AttachedRun(
        trainer, voices, session.recipe, folder=session.run_folder, log=session.log, inbox=inbox, chat=session._chat
    )
    original, served = trainer.train, Served(inbox)
    _serve(trainer, served)
    vars(trainer)["train"] = _waiting(session, run)
    run.prepare(take_over(), served, Streams.now(), original)
    session.begin(run, command.id if resume else None)
    if voices is not None and voices.waits:
        session.log.append(ChatWaits(said=chat_waits(voices)))
    return session


def _serve(trainer: Any, served: Any) -> None:
    for method in SERVED:
        served.replace(trainer, method)
    model = trainer.model
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for part in (model,) if inner is model else (model, inner):
        for method in SERVED_BY_MODEL:
            served.replace(part, method)


def _waiting(session: Session, run: AttachedRun) -> Any:
    def train(resume_from_checkpoint: Any = None, *_: Any, **__: Any) -> Any:
        """Wait for the run in the background and return its `TrainOutput`. Ctrl-C stops waiting, not the run."""
        if resume_from_checkpoint:
            raise Refused(f"train: '{session.name}' is training already; to go on with a run: attach(…, resume=True)")
        if threading.current_thread().name == f"jupyter-ft {session.name}":
            raise Refused("train: called from within the training")
        try:
            session.wait()
        except KeyboardInterrupt:
            raise StillTraining(session) from None
        return run.output

    return train


def _create(wanted: str, recipe: Recipe) -> Attached:
    folder = RunFolder.create(free_name(wanted))
    try:
        folder.lock()
        data = {"format": "messages", "said": recipe.data, "fingerprint": "", "path": None}
        folder.write_recipe(recipe, about_run(data))
        session = Attached(recipe, folder, EventLog(folder.events), None)
        sessions.add(session)
    except BaseException as error:
        folder.unlock()
        shutil.rmtree(folder.path, ignore_errors=True)  # made above, and nothing but ours in it
        if isinstance(error, OSError) and not isinstance(error, RunFolderError):
            raise RunFolderError(f"{folder.path} cannot be written: {error.strerror or error}") from None
        raise
    return session


def _go_on(wanted: str, recipe: Recipe) -> Attached:
    past = open_run(wanted)
    before, state, folder = past.recipe, past.state, past.run_folder
    if before.method != "attached":
        raise RunFolderError(f"'{wanted}' was no attached run; resume it with --resume")
    if state == "finished":
        raise RunFolderError(f"'{wanted}' is finished at step {past.step}; there is nothing to go on with")
    differs = _difference(recipe, before)
    if differs:
        raise RunFolderError(f"resume: the trainer of '{wanted}' was built with another {differs}")
    past.close()
    folder.lock()
    session = Attached(before, folder, EventLog(folder.events), None)
    sessions.add(session)
    return session
