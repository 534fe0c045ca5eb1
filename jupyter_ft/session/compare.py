"""What several weights say to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from .address import called
from .answers import Reply

if TYPE_CHECKING:
    import pandas as pd

_STYLE = "text-align:left;vertical-align:top;white-space:pre-wrap;max-width:32em"


@dataclass(frozen=True)
class Comparison:
    """`replies[prompt][address]`, in the order in which they were asked."""

    replies: dict[str, dict[str, Reply]]

    @property
    def table(self) -> pd.DataFrame:
        """One row a prompt, one column an address."""
        import pandas as pd

        return pd.DataFrame({prompt: {at: str(r) for at, r in said.items()} for prompt, said in self.replies.items()}).T

    def __repr__(self) -> str:
        lines = []
        for prompt, said in self.replies.items():
            lines += [prompt, *(f"  {called(at, reply.at)} (step {reply.step}): {reply}" for at, reply in said.items())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        heads = dict.fromkeys(called(at, reply.at) for said in self.replies.values() for at, reply in said.items())
        head = "".join(f"<th style='{_STYLE}'>{escape(at)}</th>" for at in heads)
        rows = []
        for prompt, said in self.replies.items():
            cells = "".join(
                f"<td style='{_STYLE}' title='step {reply.step}'>{escape(reply)}</td>" for reply in said.values()
            )
            rows.append(f"<tr><th style='{_STYLE}'>{escape(prompt)}</th>{cells}</tr>")
        return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def as_prompts(prompts: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list, each once."""
    return list(dict.fromkeys([prompts] if isinstance(prompts, str) else prompts))
