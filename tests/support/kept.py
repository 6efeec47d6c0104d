"""Builds that are cached in build/ until their dependencies change."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def digest(files: Iterable[Path], *texts: str) -> str:
    """A digest of the names and contents of files, and of other dependencies."""
    found = hashlib.sha256("\0".join(texts).encode())
    for file in files:
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def keep(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The folder that make() has filled for the key. If several processes ask, one fills it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made, known = folder / "made", folder / "key"
        if not known.exists() or known.read_text() != key:
            known.unlink(missing_ok=True)
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            make(made)
            known.write_text(key)
    return made
