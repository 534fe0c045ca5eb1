"""Many conversations written for one tokenizer: by its template, or as one rendering of the same roles shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .conversations import Turn
from .layout import Tokenizer, write
from .opaque import only_writes_contents

# a stand-in for the content of a turn; the spaces around it tell whether the template has trimmed it
_SPACE, _OPEN, _CLOSE = "\u2003", "\ue000", "\ue001"
_STAND_IN = re.compile(f"({_SPACE}?){_OPEN}(\\d+){_CLOSE}({_SPACE}?)")
_MOST = 1000  # sequences of roles that are remembered

Skeleton = list[tuple[str, int, bool]]
"""The text before each content, the turn (from 0; -1: none, at the end), and whether the content is trimmed."""


class Writer:
    """Writes as `layout.write` does, without rendering where the template does no more than write the contents out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        template = tokenizer.chat_template
        reserved = isinstance(template, str) and re.search(f"[{_SPACE}{_OPEN}{_CLOSE}]", template)
        self._derives = isinstance(template, str) and not reserved and only_writes_contents(template)
        self._skeletons: dict[tuple[bool, tuple[str, ...]], Skeleton | None] = {}

    def write(self, turns: Sequence[Turn], *, answer_next: bool) -> str:
        """`turns` as text. Raises `LayoutError` where the template refuses them."""
        if not self._derives:
            return write(self.tokenizer, turns, answer_next=answer_next)
        key = answer_next, tuple([turn["role"] for turn in turns])
        if key not in self._skeletons:
            if len(self._skeletons) >= _MOST:
                self._skeletons.clear()
            self._skeletons[key] = self._skeleton(turns, answer_next=answer_next)
        skeleton = self._skeletons[key]
        if skeleton is None:
            return write(self.tokenizer, turns, answer_next=answer_next)
        parts: list[str] = []
        for before, at, trimmed in skeleton:
            content = turns[at]["content"] if at >= 0 else ""
            parts += before, content.strip() if trimmed else content
        return "".join(parts)

    def _skeleton(self, turns: Sequence[Turn], *, answer_next: bool) -> Skeleton | None:
        """None where the template refuses these roles, or rewrites the turns before they come to it (a system turn)."""
        stand_ins = [
            {"role": turn["role"], "content": f"{_SPACE}{_OPEN}{at}{_CLOSE}{_SPACE}"} for at, turn in enumerate(turns)
        ]
        try:
            text = self.tokenizer.apply_chat_template(stand_ins, tokenize=False, add_generation_prompt=answer_next)
        except Exception:  # noqa: BLE001 - whatever it is, `write` says it of the row itself
            return None
        skeleton: Skeleton = []
        done = 0
        for found in _STAND_IN.finditer(text):
            if found[1] != found[3]:
                return None
            skeleton.append((text[done : found.start()], int(found[2]), not found[1]))
            done = found.end()
        return [*skeleton, (text[done:], -1, False)]
