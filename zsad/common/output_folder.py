"""Output folders: which command owns one, and whether a run may go on with what it holds.

``predict``, ``evaluate`` and ``finetune`` each keep the settings of their run in a file of the folder. A run that is resumed
has to have the same ones; what differs is named in one wording for all of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad.common.atomic_files import remove_partials, write_atomically
from zsad.common.folder_lock import FolderLock
from zsad.errors import UsageError

__all__ = [
    "EVALUATION",
    "HIDDEN",
    "LOCK",
    "RUN",
    "Owner",
    "begin_settings",
    "check_flags",
    "claim",
    "current_names",
    "differences",
    "remove",
    "resume_settings",
]

HIDDEN = ".zsad"  # of an output folder: what a command needs to go on with it
LOCK = "lock"  # below HIDDEN
# keywords that earlier versions did not have, and what stands for that
OLD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "compact": {"tower": "small", "fine": True},
    "winclip": {
        **{"focus": [], "ignore_words": [], "components": None, "adaptive_prompts": False},
        "projected": ["image-text", "window-text", "window-window"],
    },
}
OLD_NAMES = {"judge": "detector"}  # keys of JSON objects in files of earlier versions, and what they are called now


@dataclass(frozen=True)
class Owner:
    """A command that owns output folders.

    Attributes:
        command: its name.
        work: a clause for what it leaves there.
        settings: its file of settings, below ``HIDDEN``.
    """

    command: str
    work: str
    settings: str


RUN = Owner("zsad predict", "a run", "settings.json")
EVALUATION = Owner("zsad evaluate", "an evaluation", "evaluation.json")
OWNERS = (RUN, EVALUATION)


def check_flags(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Checks what is asked for of an output folder.

    Raises:
        UsageError: the folder is a file, or is to be kept and deleted at once.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite were both given: one keeps the run that is there, one deletes it.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{str(out)!r} is a file; give --out a folder.")


def claim(out: Path, owner: Owner, results: Sequence[str], *, begun: bool, resume: bool, overwrite: bool) -> FolderLock:
    """Makes an output folder a command's own, empty or with the run that is resumed.

    Args:
        out: the folder; made if it is not there.
        owner: the command.
        results: names of the files and folders that it writes there for a person.
        begun: whether it has something to go on with.
        resume: goes on with that.
        overwrite: deletes it, and the results, first.

    Returns:
        The lock of the folder, which is this run's until it is released, or gone.

    Raises:
        UsageError: as ``check_flags``; another run is at work in the folder, or it is another command's, holds files of the
            results' names that are no command's, or a run and neither ``resume`` nor ``overwrite`` was given. Nothing is
            changed then.
    """
    check_flags(out, resume=resume, overwrite=overwrite)
    hidden = out / HIDDEN
    for other in OWNERS:
        if other != owner and (hidden / other.settings).is_file():
            raise UsageError(
                f"{str(out)!r} holds {other.work} ({other.command}), and nothing in it was changed. Give another --out."
            )
    foreign = [name for name in results if (out / name).exists()]
    if foreign and not hidden.is_dir():
        raise UsageError(
            f"{str(out)!r} holds {', '.join(foreign)}, but no {owner.work.partition(' ')[2]}, so nothing was overwritten. Give "
            "another --out."
        )
    hidden.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(hidden / LOCK, owner.command, out)
    with lock.released_on_error():
        if overwrite:
            for path in (*(out / name for name in results), *(one for one in hidden.iterdir() if one.name != LOCK)):
                remove(path)
        elif begun and not resume:
            raise UsageError(
                f"{str(out)!r} holds {owner.work} already. Give --resume to go on with it (nothing is scored twice), "
                "--overwrite to start anew, or another --out."
            )
        remove_partials(hidden)
    return lock


def remove(path: Path) -> None:
    """Deletes a file, a link or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def begin_settings(path: Path, now: Mapping[str, Any]) -> None:
    """Writes the settings of a run that begins."""
    write_atomically(path, json.dumps(now, indent=1).encode())


def resume_settings(path: Path, now: Mapping[str, Any], *, what: str) -> None:
    """Compares the settings of a run with those of the one that it goes on with.

    Args:
        path: the file that ``begin_settings`` wrote.
        now: the settings of this run.
        what: a clause for the run: "an evaluation".

    Raises:
        UsageError: the run was begun with other settings, which are named, or the file is damaged.
    """
    try:
        then = current_names(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} is damaged ({error}). Give --overwrite to start anew.") from error
    if differ := differences(then, now):
        raise UsageError(
            f"The output folder holds {what} with other settings: {'; '.join(differ)}. Give the same settings to resume it, "
            "--overwrite to start anew, or another --out."
        )


def current_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the keys of earlier versions renamed, and what they took for granted of a method said."""
    found = {OLD_NAMES.get(key, key): value for key, value in row.items()}
    if isinstance(arguments := found.get("arguments"), dict):
        found["arguments"] = OLD_ARGUMENTS.get(str(found.get("method")), {}) | arguments
    return found


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
    named = [name for name in names if (before.get(name) or None) != (after.get(name) or None)]
    return [clause for name in named for clause in _clauses(f"{key}.{name}", before.get(name), after.get(name))] or whole


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
