"""Commit and uncommitted changes that a run was started with, compared with the current ones."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from typing import Any

MOST_DIFF_BYTES = 1_000_000


def git_state() -> dict[str, Any] | None:
    """Return commit and uncommitted changes of the working directory; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit.strip(), "diff": _diff("HEAD")}


def git_changes(before: Mapping[str, Any] | None) -> list[str]:
    """Return how the tracked files differ from those that a run was started with.

    Nothing is checked out or changed.

    Args:
        before: What `git_state` returned at the start of the run.

    Returns:
        Lines that describe the difference; none if there is no difference.
    """
    if before is None:
        return []
    commit = before["commit"][:12]
    if _git("rev-parse", "HEAD") is None:
        return [f"the run was started at commit {commit}, and here is no git repository"]
    if _git("cat-file", "-e", f"{before['commit']}^{{commit}}") is None:
        return [f"the run was started at commit {commit}, which this repository does not have"]
    then, now = before["diff"], _diff(before["commit"])
    if then is None or now is None or max(map(_size, (then, now))) >= MOST_DIFF_BYTES:
        return [f"the changes since commit {commit} are too many to be compared"]
    old, new = _by_file(then), _by_file(now)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if not names:
        return []
    return [f"code is not as it was at commit {commit}, with its changes: {', '.join(names)}"]


def _diff(commit: str) -> str | None:
    return _git("diff", "--no-ext-diff", "--no-color", commit)


def _size(diff: str) -> int:
    return len(diff.encode()) + 3  # the last character may have been cut


def _by_file(diff: str) -> dict[str, str]:
    """Return the part of a diff that belongs to each file."""
    parts = re.split(r"^diff --git (.*)\n", diff, flags=re.MULTILINE)[1:]
    headers, bodies = parts[::2], parts[1::2]
    return {h.rpartition(" b/")[2]: body for h, body in zip(headers, bodies, strict=True)}


def _git(*arguments: str) -> str | None:
    """Return the output of a git command; None if it fails or git is not installed."""
    try:
        result = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            capture_output=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout[:MOST_DIFF_BYTES].decode(errors="replace")
