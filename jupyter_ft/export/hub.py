"""Up to the hub by huggingface_hub: private unless it is asked otherwise, and nothing before the export was checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError

if TYPE_CHECKING:  # torch comes with it, and who has no token should not wait for that
    from .origin import Report

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
LOGIN = "hf auth login (or set HF_TOKEN before the kernel starts)"


def check_push(repo: str, *, public: bool) -> None:
    """Find out early that `repo` cannot be pushed to: its name, the network, the token, who sees it. `ExportError`."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not _NAME.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".", "-")):
        raise ExportError(f"'{repo[:80]}' is no place on the hub: write USER/NAME (letters, digits, '-', '_', '.')")
    if constants.HF_HUB_OFFLINE:
        raise ExportError(
            "HF_HUB_OFFLINE=1 forbids pushing: unset that and restart the kernel, or %ft export to a folder"
        )
    if get_token() is None:
        raise ExportError(f"no access token for the hub: {LOGIN}")
    api = HfApi()
    try:
        api.whoami()
        there = api.model_info(repo)
    except RepositoryNotFoundError:
        return
    except Exception as error:  # noqa: BLE001 - whatever the network makes of it
        raise ExportError(why(error, repo)) from None
    if not there.private and not public:
        raise ExportError(
            f"{repo} is there and public: --public (in Python: private=False) pushes to it, or take another"
        )


def push(folder: Path, repo: str, message: str, report: Report, *, public: bool) -> str:
    """Upload `folder` as it is; the address of the repository. `ExportError` where the hub refuses."""
    from huggingface_hub import HfApi

    api: Any = HfApi()
    report(f"uploading to {repo}", 0, 0)
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=str(folder), commit_message=message, ignore_patterns=[".*", "jupyter_ft.json"]
        )
    except Exception as error:  # noqa: BLE001 - as above
        raise ExportError(why(error, repo)) from None
    return str(address)


def why(error: Exception, repo: str) -> str:
    """One line for what the hub, or the way there, has said."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return f"the hub does not know the access token: {LOGIN}"
    if status == 403:
        return f"the access token may not write to {repo}: make one at huggingface.co/settings/tokens, then {LOGIN}"
    if status is None:
        return f"the hub cannot be reached ({type(error).__name__}): check the connection; nothing was pushed"
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"the hub does not take it ({status}): {first[:200]}"
