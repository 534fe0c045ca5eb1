"""Save a notebook, and know that it is on disk."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

_READ = """async (name) => {
    const answer = await fetch(`/api/contents/${name}`);
    return answer.ok ? await answer.json() : null;
}"""
_WRITTEN = f"""async ([name, said, before]) => {{
    for (let tries = 0; tries < 300; tries++) {{
        const file = await ({_READ})(name);
        const written = file !== null && file.last_modified !== before;
        if (written && JSON.stringify(file.content).includes(said)) return file.content;
        await new Promise((go) => setTimeout(go, 200));
    }}
    throw new Error(`${{name}} was not saved with “${{said}}”`);
}}"""


def save(page: Page, name: str, said: str = "") -> Any:
    """Save, and wait until the file of that name is written anew, whole, and holds what was `said`; gives the notebook.

    The server empties the file before it writes: who reads, or loads the page anew, in between finds no notebook. The
    loop is the page's own: for `wait_for_function` an asynchronous answer is true before it is known.
    """
    before = page.evaluate(_READ, name)
    page.keyboard.press("Control+s")
    return page.evaluate(_WRITTEN, [name, said, before and before["last_modified"]])
