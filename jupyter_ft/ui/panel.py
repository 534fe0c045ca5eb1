"""The panel of a run in the notebook: what it is told comes from the pump, what it says goes to the session."""

from __future__ import annotations

import threading
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets
from IPython.display import DisplayHandle, display
from pydantic import ValidationError

from jupyter_ft.errors import FineTuneError
from jupyter_ft.messages import Refused, command_from
from jupyter_ft.recipe import first_complaint
from jupyter_ft.ui.below import Below
from jupyter_ft.ui.data_tab import DataTab
from jupyter_ft.ui.lineage import ForkTab, LineageTab
from jupyter_ft.ui.pump import PUMP, free_replies
from jupyter_ft.ui.record import record_html, record_text
from jupyter_ft.ui.review import ReviewTab
from jupyter_ft.ui.samples import SamplesTab
from jupyter_ft.ui.served import PATIENCE, Served, ServedTab
from jupyter_ft.ui.telling import PROTOCOL, Message, View
from jupyter_ft.ui.thumbs import Thumbs
from jupyter_ft.ui.watched import Watched

if TYPE_CHECKING:
    from jupyter_ft.session import Session

VIEWS_KEPT = 16  # a page that is closed does not say goodbye
NOTHING = {"text/plain": "", "text/html": "<span hidden></span>"}  # where no widget is drawn: the record is below


def _built(name: str) -> str:
    file = files("jupyter_ft.ui") / "static" / name
    if not file.is_file():
        raise FineTuneError(f"the panel is not built ({file} is missing): cd labextension && npm ci && npm run build")
    return file.read_text(encoding="utf-8")


class Panel(anywidget.AnyWidget):  # type: ignore[misc]
    """The panel of one session, in as many views as are open.

    Messages from a view: `hello` (tell me everything), `poll` (tell me the news now), `record` (give me the record),
    `here` (still open), `bye`, `command`, `rate` (a thumb) and `page` (of a tab that is served). Handlers validate and
    put the command in the session's inbox; they may run on any thread.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    name = traitlets.Unicode().tag(sync=True)
    protocol = traitlets.Int(PROTOCOL).tag(sync=True)
    beside = traitlets.List(traitlets.Unicode()).tag(sync=True)  # the models of panels that are drawn below this one
    tab = traitlets.Unicode().tag(sync=True)  # on which a view opens; empty: where it was left

    def __init__(self, session: Watched) -> None:
        self._session = session
        self._views: dict[str, View] = {}
        self._lock = threading.Lock()
        self._handles: list[DisplayHandle] = []  # one for each cell in which it was shown
        self._below = Below(session)
        tabs: dict[str, ServedTab] = {
            "data": DataTab(session),
            "samples": SamplesTab(session),
            "review": ReviewTab(session),
            "lineage": LineageTab(session, self.show_beside),
            "fork": ForkTab(session, self.show_beside),
        }
        self._served = Served(session.name, tabs)
        self._thumbs = Thumbs(session)
        super().__init__(name=session.name, _esm=_built("panel.js"), _css=_built("panel.css"))
        self.on_msg(self._heard)

    # --- told by the pump ---------------------------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether a view is open, or the record still has to be kept at the end of the run."""
        return bool(self._views) or self._below.pending

    def tell(self, now: float) -> int:
        """Send each view what is new to it; gives the number of messages."""
        sent = 0
        with self._lock:
            for view in self._views.values():
                if view.pull:
                    continue
                sent += self._send_pages(view)
                if not view.due(now):
                    continue
                if view.keeps and view.cursor is not None and view.record < self._below.version:
                    view.told = now
                    sent += self._deliver(view.record_message(self._session, self._below.version, key=self._below.key))
                else:
                    sent += self._send_next(view, now)
        self._below.keep(now)
        return sent

    def _send_next(self, view: View, now: float) -> int:
        message = view.next_message(self._session, now)
        return 0 if message is None else self._deliver(message)

    def _deliver(self, message: Message) -> int:
        self.send(message.content, buffers=message.buffers)
        free_replies(self.comm)
        return 1

    def _send_pages(self, view: View) -> int:
        sent = 0
        view.pages += self._served.news(view.versions)
        while view.pages:
            page = view.pages.pop(0)
            self.send({"v": PROTOCOL, "t": "page", "to": view.id, "seq": view.seq, **self._where(), **page})
            free_replies(self.comm)
            sent += 1
        return sent

    # --- said by the browser ------------------------------------------------------------------------------------------

    def _heard(self, _widget: object, content: object, _buffers: object) -> None:
        if not isinstance(content, dict) or not isinstance(content.get("view"), str):
            return
        now = time.monotonic()
        with self._lock:
            view = self._view(content["view"][:64], now)
            match content.get("t"):
                case "hello":
                    view.cursor, view.pull, view.record = None, False, 0
                    view.keeps = content.get("keeps") is True
                    self._thumbs.known(view.pages.append)
                case "poll":
                    if content.get("seq") != view.seq:
                        view.cursor = None  # something was lost on the way
                    view.pull = True
                    self._send_pages(view)
                    if not self._send_next(view, now):
                        self.send({"v": PROTOCOL, "t": "beat", "to": view.id, "seq": view.seq, **self._where()})
                        free_replies(self.comm)
                case "record":
                    below = self._below
                    self._deliver(view.record_message(self._session, below.version, key=below.key, data=below.latest))
                case "bye":
                    del self._views[view.id]
        if view.pull:
            self._below.keep(now)  # as for the news: what the pump sends does not arrive there
        if content.get("t") == "command":
            self._submit(view, content.get("command"))
        if content.get("t") == "page":
            self._show_page(view, content)
        if content.get("t") == "rate":
            self._thumbs.rate(content, self._tell_all)
        PUMP.watch(self)

    def _where(self) -> dict[str, Any]:
        return {"state": self._session.state, "step": self._session.step, "total": self._session.total_steps}

    def _view(self, view_id: str, now: float) -> View:
        view = self._views.pop(view_id, None) or View(view_id, now)
        view.heard = now
        self._views[view_id] = view  # the last heard is the last in the dict
        while len(self._views) > VIEWS_KEPT:
            del self._views[next(iter(self._views))]
        return view

    def _submit(self, view: View, data: object) -> None:
        try:
            self._session.submit(command_from(data))
        except ValidationError as error:
            self._note(view, data, f"not understood: {first_complaint(error)}")
        except FineTuneError as error:
            self._note(view, data, str(error))

    def _show_page(self, view: View, asked: dict[str, Any]) -> None:
        done = self._served.ask(asked, view.versions, view.pages.append)
        if view.pull and done.wait(PATIENCE):  # it hears only what is said in answer; else the pump tells
            with self._lock:
                self._send_pages(view)

    def _tell_all(self, page: dict[str, Any]) -> None:
        with self._lock:
            for view in self._views.values():
                view.pages.append(page)

    def _note(self, view: View, data: object, reason: str) -> None:
        said = data if isinstance(data, dict) else {}
        command, verb = str(said.get("id", ""))[:64], str(said.get("kind", ""))[:32]
        view.notes.append(Refused(command=command, verb=verb, step=self._session.step, reason=reason[:500]))
        del view.notes[:-20]  # a browser gone mad must not fill the memory

    # --- shown in the notebook ----------------------------------------------------------------------------------------

    def show(self, tab: str = "") -> None:
        """Show the panel in the cell that runs, and below it the static record for where no widget can be drawn."""
        self.tab = tab
        data, metadata = self._drawn()
        handle = display({**data, **NOTHING}, metadata=metadata, raw=True, display_id=True)
        if handle is not None:
            self._handles.append(handle)
            self._below.show()
        PUMP.watch(self)

    def show_beside(self, session: Session) -> bool:
        """Have each view of this panel draw that of `session` below it; False where it has none to draw."""
        from jupyter_ft.ui.views import panel_of

        model = panel_of(session).model_id
        if model and model not in self.beside:
            self.beside = [*self.beside, model]  # by name: a panel that is closed must not be held
        return bool(model)

    def close(self) -> None:
        """Leave the record alone in the place of each view, and tell them nothing more; the run is not touched."""
        PUMP.forget(self)
        for handle in self._handles:
            handle.update(NOTHING, raw=True)  # without the view, which a closed widget leaves blank
        self._below.refresh(time.monotonic())
        super().close()

    def _drawn(self) -> tuple[dict[str, Any], dict[str, Any]]:
        found: Any = super()._repr_mimebundle_()  # the view's mime type
        return found or ({}, {})

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self._drawn()
        record = {"text/plain": record_text(self._session), "text/html": record_html(self._session)}
        return {**data, **record}, metadata

    def _ipython_display_(self, **_: object) -> None:  # ipywidgets 7 would show the bare view without the record
        self.show()
