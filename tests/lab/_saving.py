"""Save a notebook, and know that it is on disk."""

from __future__ import annotations

from playwright.sync_api import Page

_READ = """async (name) => {
    const answer = await fetch(`/api/contents/${name}`);
    return answer.ok ? await answer.json() : null;
}"""
_WRITTEN = f"""async ([name, said, before]) => {{
    const file = await ({_READ})(name);
    return file !== null && file.last_modified !== before && JSON.stringify(file.content).includes(said);
}}"""


def save(page: Page, name: str, said: str = "") -> None:
    """Save, and wait until the file of that name has been written anew, whole, and holds what was `said`.

    The server empties the file before it writes: who reads, or loads the page anew, in between finds no notebook.
    """
    before = page.evaluate(_READ, name)
    page.keyboard.press("Control+s")
    page.wait_for_function(_WRITTEN, arg=[name, said, before and before["last_modified"]], polling=200)
