"""The commit of kcaps that runs."""

import os
import pathlib
import subprocess


def commit(mark: str = "+") -> str:
    """Returns the short name of the commit of kcaps that runs, or an empty text.

    The environment variable `KCAPS_COMMIT` says it of a copy without git.

    Args:
        mark: What follows the name where files differ from the commit. Defaults to `"+"`.
    """
    if name := os.environ.get("KCAPS_COMMIT"):
        return name
    folder = pathlib.Path(__file__).parents[1]
    if not os.path.lexists(folder / ".git"):  # It may be installed in another repository.
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", f"--dirty={mark}", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
