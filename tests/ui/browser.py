"""The built panel in a headless Chromium, on a static page, over a real Python panel: no kernel, no network."""

from __future__ import annotations

import base64
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Route
from small_run import SmallRun, say

from jupyter_ft.ui.panel import Panel

SHOTS = Path(__file__).parents[1] / "shots"
PAGE = """<!doctype html><html style="{host}"><head><meta charset="utf-8"><link rel="stylesheet" href="/panel.css">
<style>body{{margin:12px;{body}}}</style></head><body {attributes}><div id="out"></div><script type="module">
const listeners = {{}};
const model = {{
  get: (name) => ({{name: {name!r}, protocol: 1}})[name],
  on: (event, f) => (listeners[event] ??= []).push(f),
  off: (event, f) => (listeners[event] = (listeners[event] ?? []).filter((g) => g !== f)),
  send: (content) => window.toKernel(content),
}};
window.deliver = (content, buffers) => {{
  const views = buffers.map((text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer));
  for (const f of listeners["msg:custom"] ?? []) f(content, views);
}};
window.trigger = (event) => (listeners[event] ?? []).forEach((f) => f());
const panel = (await import("/panel.js")).default;
window.close_panel = panel.render({{model, el: document.getElementById("out")}});
window.ready = true;
</script></body></html>"""
INK = """(root) => [...root.querySelectorAll('canvas')].map((c) => {
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n;
})"""
NEAR_COLOUR = """(root, [r, g, b, tolerance]) => {
  const c = root.querySelector('canvas'), box = c.getBoundingClientRect();
  const over = root.querySelector('.u-over').getBoundingClientRect();
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, found = [];
  for (let i = 0; i < d.length; i += 4) {
    if (d[i + 3] < 90 || Math.abs(d[i] - r) + Math.abs(d[i + 1] - g) + Math.abs(d[i + 2] - b) > tolerance) continue;
    const x = (i / 4) % c.width, y = Math.floor(i / 4 / c.width), ratio = c.width / box.width;
    found.push([(x / ratio - (over.left - box.left)) / over.width, (y / ratio - (over.top - box.top)) / over.height]);
  }
  return found;
}"""
LIGHT = {"host": "color-scheme:light", "body": "background:#fff", "attributes": ""}
DARK = {
    "host": "",
    "body": "color-scheme:dark;background:#111;--jp-layout-color0:#111111;--jp-ui-font-color1:rgba(255,255,255,.87)",
    "attributes": "data-jp-theme-light=false",
}


class Open:
    """A page with the panel of `run` in it; `turn` carries what was said both ways."""

    def __init__(
        self,
        browser: Browser,
        run: SmallRun,
        panel: Panel,
        theme: dict[str, str],
        width: int = 900,
        *,
        pushes: bool = True,
    ) -> None:
        self.run, self.panel = run, panel
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.said: list[dict[str, Any]] = []
        self.now = time.monotonic()  # the panel notes by it when a view was heard
        self.mute = False  # nothing arrives any more
        self.pushes = pushes  # False: what is not said in answer is lost, as on Colab
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route("**/*", lambda route: self._serve(route, theme))
        self.page.expose_function("toKernel", self._keep)
        self.page.goto("http://panel.test/")
        self.page.wait_for_function("window.ready")
        self.turn()

    def _keep(self, content: dict[str, Any]) -> None:
        self.said.append(content)

    def _serve(self, route: Route, theme: dict[str, str]) -> None:
        path = route.request.url.removeprefix("http://panel.test/")
        static = files("jupyter_ft.ui") / "static"
        if path == "":
            route.fulfill(body=PAGE.format(name=self.run.name, **theme), content_type="text/html")
        elif path in ("panel.js", "panel.css"):
            kind = "text/javascript" if path.endswith("js") else "text/css"
            route.fulfill(body=(static / path).read_text(), content_type=kind)
        else:
            if "favicon" not in path:
                self.foreign.append(route.request.url)
            route.abort()

    def turn(self) -> None:
        """Hand over what the page said, and tell it the news; then let it draw."""
        for _ in range(2):
            self.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")
            said, self.said[:] = list(self.said), []
            for content in said:
                say(self.panel, **content)
            self._deliver(lost=self.mute)
            self.now += 1
            self.panel.tell(self.now)
            self._deliver(lost=self.mute or not self.pushes)
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")

    def _deliver(self, *, lost: bool) -> None:
        for content, buffers in self.panel.comm.taken():
            packed = [base64.b64encode(buffer).decode() for buffer in buffers]
            if not lost:
                self.page.evaluate("([content, buffers]) => deliver(content, buffers)", [content, packed])

    def text(self, name: str) -> str:
        return self.page.get_by_test_id(name).first.inner_text()

    def painted(self, colour: str, tolerance: int = 40) -> list[tuple[float, float]]:
        """Where the loss plot has about this colour: (0, 0) is its upper left corner, (1, 1) the lower right."""
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        found = self.page.get_by_test_id("plot").evaluate(NEAR_COLOUR, [*rgb, tolerance])
        return [(x, y) for x, y in found]

    def shot(self, name: str) -> None:
        SHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
