"""All visitors' desks, by the session that the server gave them; a desk goes when its page is closed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from zsad_demo.desk import Desk, Models
from zsad_demo.weights import Given

MOST = 200  # visitors at once
IDLE = 3600.0  # seconds after which a desk may be cleared for another visitor


class Desks:
    """Desks by session.

    Args:
        cache: the server's folder of uploads and shown pictures.
        given: learned weights by method.
    """

    def __init__(self, cache: Path, given: Mapping[str, Given] | None = None) -> None:
        self.models = Models(given)
        self._cache = cache
        self._lock = threading.Lock()
        self._desks: dict[str, Desk] = {}
        self._uploads: dict[str, set[str]] = {}  # session -> its files in the cache
        self._seen: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._desks)

    def __call__(self, session: str, uploads: Iterable[str] | None = None) -> Desk:
        """The desk of a session, made where there is none; ``uploads`` are noted as the visitor's."""
        with self._lock:
            self._seen[session] = time.monotonic()
            stale = [] if session in self._desks or len(self._desks) < MOST else self._oldest()
            if session not in self._desks:
                self._desks[session] = Desk(self.models)
            self._uploads.setdefault(session, set()).update(uploads or ())
            found = self._desks[session]
        for one in stale:
            self.close(one)
        return found

    def _oldest(self) -> list[str]:
        limit = time.monotonic() - IDLE
        return sorted((one for one, seen in self._seen.items() if seen < limit), key=self._seen.__getitem__)

    def close(self, session: str) -> None:
        """Deletes a visitor's pictures: the desk's folder, what was shown, and uploads that nobody else has."""
        with self._lock:
            desk = self._desks.pop(session, None)
            own = self._uploads.pop(session, set())
            self._seen.pop(session, None)
            others = set().union(*self._uploads.values())
            last = not self._desks
        if desk is None:
            return
        desk.close()
        shown = [] if last else self._cache.glob(f"*/{desk.token}-*")
        for path in [*map(Path, own - others), *shown]:
            path.unlink(missing_ok=True)
        if last:  # drawings of the editor have no name of their own
            for left in self._cache.iterdir() if self._cache.is_dir() else ():
                shutil.rmtree(left, ignore_errors=True)
