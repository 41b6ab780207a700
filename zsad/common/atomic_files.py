"""What is kept on disk between runs: files never seen half written, and what differs between settings then and now."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.errors import UsageError

__all__ = ["HIDDEN", "check_out", "differences", "scratch_folder", "write_aside"]

HIDDEN = ".zsad"  # of an output folder: what a command needs to go on with it
MARKS = {"settings.json": "a run of zsad predict", "evaluation.json": "an evaluation (zsad evaluate)"}  # below HIDDEN


def check_out(out: Path, mark: str, *, resume: bool, overwrite: bool) -> None:
    """Refuses an output folder that is a file, is to be kept and deleted at once, or holds what another command wrote.

    Args:
        out: the folder.
        mark: the file of ``MARKS`` that says that the folder is the command's own.
        resume: goes on with what is there.
        overwrite: deletes it.

    Raises:
        UsageError: says which; nothing is changed.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite were both given: one keeps the run that is there, one deletes it.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{str(out)!r} is a file; give --out a folder.")
    for name, what in MARKS.items():
        if name != mark and (out / HIDDEN / name).is_file():
            raise UsageError(f"{str(out)!r} holds {what}, and nothing in it was changed. Give another --out.")


def scratch_folder(owner: object) -> Path:
    """A temporary folder that goes when its owner does, or at the end of the program."""
    place = tempfile.mkdtemp(prefix="zsad-")
    weakref.finalize(owner, shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def write_aside(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it, so that it is never seen half written; several processes may, at once."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    aside.write_bytes(content)
    aside.replace(path)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One clause per key whose value is another one, such as 'target was "lamp" and is "bulb"'; [] where all are equal.

    Of objects it names the entries that differ ("geometry.tile was null and is [64, 64]"), and those that are unset in both
    (null, or false) only where there is nothing else to name.

    Args:
        then: settings that were read from JSON.
        now: settings of this run; compared as JSON would keep them.
    """
    now = json.loads(json.dumps(now))
    differ = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    return [clause for key in differ for clause in _clauses(key, then.get(key), now.get(key))]


def _clauses(key: str, then: Any, now: Any) -> list[str]:
    whole = [f"{key} was {_brief(then)} and is {_brief(now)}"]
    kinds = {type(one) for one in (then, now)}
    if dict not in kinds or not kinds <= {dict, type(None)}:
        return whole
    before, after = then or {}, now or {}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    told = [name for name in names if (before.get(name) or None) != (after.get(name) or None)]
    return [clause for name in told for clause in _clauses(f"{key}.{name}", before.get(name), after.get(name))] or whole


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
