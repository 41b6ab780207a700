"""All visitors' workspaces by Gradio session; a workspace is deleted when its page is closed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from zsad_demo.checkpoints import Checkpoint
from zsad_demo.inspectors import InspectorCache
from zsad_demo.workspace import Workspace

CAPACITY = 200  # visitors at once
IDLE = 3600.0  # seconds after which a workspace may be deleted for another visitor


class Workspaces:
    """Workspaces by session hash.

    Args:
        cache: the server's folder of uploads and shown pictures.
        checkpoints: loaded weights by method.
    """

    def __init__(self, cache: Path, checkpoints: Mapping[str, Checkpoint] | None = None) -> None:
        self.inspectors = InspectorCache(checkpoints)
        self._cache = cache
        self._lock = threading.Lock()
        self._workspaces: dict[str, Workspace] = {}
        self._uploads: dict[str, set[str]] = {}  # session -> its files in the cache
        self._last_used: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._workspaces)

    def __call__(self, session: str, uploads: Iterable[str] | None = None) -> Workspace:
        """The workspace of a session, created where there is none; ``uploads`` are recorded as the visitor's."""
        with self._lock:
            self._last_used[session] = time.monotonic()
            full = session not in self._workspaces and len(self._workspaces) >= CAPACITY
            stale = self._idle() if full else []
            if session not in self._workspaces:
                self._workspaces[session] = Workspace(self.inspectors)
            self._uploads.setdefault(session, set()).update(uploads or ())
            found = self._workspaces[session]
        for one in stale:
            self.close(one)
        return found

    def _idle(self) -> list[str]:
        limit = time.monotonic() - IDLE
        return sorted((one for one, used in self._last_used.items() if used < limit), key=self._last_used.__getitem__)

    def close(self, session: str) -> None:
        """Deletes a visitor's files: the workspace, what was shown, and uploads that no other visitor has."""
        with self._lock:
            workspace = self._workspaces.pop(session, None)
            own = self._uploads.pop(session, set())
            self._last_used.pop(session, None)
            others = set().union(*self._uploads.values())
            last = not self._workspaces
        if workspace is None:
            return
        workspace.close()
        shown = [] if last else self._cache.glob(f"*/{workspace.token}-*")
        for path in [*map(Path, own - others), *shown]:
            path.unlink(missing_ok=True)
        if last:  # drawings of the image editor have no name of their own
            for left in self._cache.iterdir() if self._cache.is_dir() else ():
                shutil.rmtree(left, ignore_errors=True)
