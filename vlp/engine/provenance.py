"""Where a result comes from: versions, git commit, machine and command, written beside every run and checkpoint."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "timm", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of this source tree, with `+changes` when files differ from it; None outside a git tree."""
    source = Path(__file__).parent
    commit = _git(source, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if _git(source, "status", "--porcelain") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def timestamp() -> str:
    """Now, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """Processor, cores and threads, and the accelerator's name."""
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def provenance() -> dict[str, Any]:
    """Everything above, the command line and the time."""
    return {
        "time": timestamp(),
        "command": shlex.join(sys.argv),
        "commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }
