"""Raw text: files and folders of them, each file a document, read in passages."""

from __future__ import annotations

from pathlib import Path

from .files import Found, check_text, opened_text

TEXT_SUFFIXES = (".txt", ".md")
PASSAGE, WHOLE = 2**12, 2**20  # characters
MANY = 20
"""So many documents are kept whole, up to a million characters each: they can be held out whole."""


def is_text(path: Path) -> bool:
    """Whether the file is raw text by its name (.txt, .md, also .gz)."""
    return path.name.lower().removesuffix(".gz").endswith(TEXT_SUFFIXES)


def text_files(folder: Path) -> tuple[list[Path], str]:
    """The text files in the folder and those below it, by name, and what is said of the others.

    What is hidden (begins with a dot) does not count; files without any text are left out.
    """
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    seen = [path for path in every if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    texts = [path for path in seen if is_text(path)]
    found = [path for path in texts if not _is_blank(path)]
    others = [f"{len(seen) - len(texts):,} of other kinds"] if len(texts) < len(seen) else []
    others += [f"{len(texts) - len(found):,} empty"] if len(found) < len(texts) else []
    return found, " and ".join(others)


def _is_blank(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not file.read(WHOLE).strip()
    except OSError:  # said when it is read
        return False


def rows_of_text(path: Path, document: int, most: int) -> Found:
    """The text of a file in passages of at most `most` characters, with the line at which each begins.

    Passages end with a paragraph, a line or a word; blank ones are left out. `part` is `[document, n]` for
    the n-th (from 0) of several, and null where the whole is one. Raises `DataError` as `check_text` does.
    """
    check_text(path)
    with opened_text(path, None) as file:
        held, line, number = file.read(most + 1), 1, 0
        while held:
            passage, held = _cut(held, most)
            held += file.read(most + 1 - len(held))
            if passage.strip():
                yield line, {"text": passage, "part": [document, number] if held or number else None}
                number += 1
            line += passage.count("\n")


def _cut(text: str, most: int) -> tuple[str, str]:
    if len(text) <= most:
        return text, ""
    for end in ("\n\n", "\n", " "):
        at = text.rfind(end, most // 2, most)
        if at >= 0:
            return text[: at + len(end)], text[at + len(end) :]
    return text[:most], text[most:]
