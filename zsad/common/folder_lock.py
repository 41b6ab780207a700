"""A lock on an output folder, so that two runs never write into it at once.

The lock is the operating system's, on an open file, so it ends with the process that holds it, however that ends: after
``kill -9`` or a power cut the next run takes it. The file states who holds it. Where the file system has no locks, that
statement alone counts: a process of this machine that is gone holds nothing.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zsad.errors import UsageError

__all__ = ["FolderLock", "is_running"]

TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
FAR = 1 << 30  # on Windows a locked byte cannot be read, so the one that is locked lies behind the text

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        os.lseek(file, FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class FolderLock:
    """A lock that is held from the making of the object until ``release``, or the end of the object or process.

    Args:
        path: the lock's file; its folder has to be there. It is deleted on release.
        command: what takes it, for the message that another run gets: "zsad predict".
        out: the folder, as the user named it.

    Raises:
        UsageError: another run holds it; names its command, process and machine.
    """

    def __init__(self, path: Path, command: str, out: Path) -> None:
        file = _taken(path, out)
        owner = {"command": command, "pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M:%S")}
        os.lseek(file, 0, os.SEEK_SET)
        os.truncate(file, 0)
        os.write(file, json.dumps(owner).encode())
        self.path, self._file = path, file
        self.release = weakref.finalize(self, _release, file, path, os.getpid())  # acts once, however often it is called

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Releases the lock where the body fails: an exception that is kept would keep the object, and the lock, alive."""
        try:
            yield
        except BaseException:
            self.release()
            raise


def _taken(path: Path, out: Path) -> int:
    """An open and locked file at the path."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file)
        except OSError as error:
            owner = _owner(file)
            os.close(file)
            if error.errno in TAKEN or _holds(owner):
                raise UsageError(_message(out, owner)) from None
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # no locks on this file system
        try:
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # its last owner deleted it in between


def _release(file: int, path: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has the open file too, and neither the lock nor the file are its own
        with suppress(OSError):  # on Windows an open file cannot be deleted
            path.unlink(missing_ok=True)
        with suppress(OSError):  # there was no lock
            _unlock(file)
    os.close(file)


def _owner(file: int) -> dict[str, Any]:
    """Who holds the lock, by its file; {} where that cannot be read."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        found = json.loads(os.read(file, 4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _holds(owner: dict[str, Any]) -> bool:
    """Whether the owner may still be at work, where the file system has no locks."""
    return bool(owner) and (owner.get("host") != socket.gethostname() or is_running(owner.get("pid")))


def is_running(pid: Any) -> bool:
    """Whether a process of this machine is running; True where that cannot be found out."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    if sys.platform == "win32":  # os.kill would end it there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _message(out: Path, owner: dict[str, Any]) -> str:
    who = "another run"
    if owner:
        place = "this process" if owner.get("pid") == os.getpid() else f"process {owner.get('pid')} on {owner.get('host')}"
        who = f"another run ({owner.get('command')}, {place}, since {owner.get('since')})"
    return f"{str(out)!r} is in use by {who}, so nothing in it was changed. Wait for its end, or give another --out."
