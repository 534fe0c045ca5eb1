"""Why the hub does not give a model, in words."""

from __future__ import annotations


def why_not_fetched(error: Exception) -> str:
    """The reason in a line, and what mends it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE=1 forbids fetching it: unset that and restart the kernel, or give a local folder"
    for one in (error, error.__cause__):
        if isinstance(one, GatedRepoError):
            return "the hub wants its terms accepted: do so on its page there, then huggingface-cli login"
        if isinstance(one, RepositoryNotFoundError):
            return "the hub has none of that name, or it is private: check the name, or huggingface-cli login"
        if isinstance(one, RevisionNotFoundError):
            return "the hub has no such revision of it: check revision"
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached: check the connection, or give a local folder"
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"the hub does not give it: {first}"
