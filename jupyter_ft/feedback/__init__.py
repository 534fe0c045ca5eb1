"""What people have judged of a run: kept for good, read as training data, counted, taken along as a file.

Importing this imports neither torch nor pandas; nothing is opened before it is asked for.
"""

from __future__ import annotations

from .judgement import Answer, Choice, Judgement, is_held_out, prompt_key
from .kept import Feedback, feedback
from .wins import Wins

__all__ = ["Answer", "Choice", "Feedback", "Judgement", "Wins", "feedback", "is_held_out", "prompt_key"]
