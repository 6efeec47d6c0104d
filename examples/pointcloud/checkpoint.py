"""Checkpoints, written atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

Settings = dict[str, Any]  # everything a trained network depends on


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a file atomically: after a crash it is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_checkpoint(path: Path | None, settings: Settings | None = None) -> dict[str, Any] | None:
    """A checkpoint, with its tensors on the CPU; None if the file does not exist.

    Raises:
        ValueError: it is damaged, or was written with other settings; names file and settings.
    """
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        written = state["settings"]
    except Exception as error:  # whatever unpickling raises
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"checkpoint {path} is damaged, or no checkpoint; delete it to begin anew "
            f"({type(error).__name__}: {reason})"
        ) from error
    if settings is not None:
        require_same(settings, written, f"checkpoint {path}")
    return state


def require_same(wanted: Settings, written: Settings, what: str) -> None:
    """Raises ValueError, naming the differences, if a file was written with other settings."""
    differing = [
        f"{key} {written.get(key)!r} (now {wanted.get(key)!r})"
        for key in sorted(wanted.keys() | written.keys())
        if wanted.get(key) != written.get(key)
    ]
    if differing:
        raise ValueError(
            f"{what} was written with other settings: {', '.join(differing)}; "
            "give those, or another folder"
        )
