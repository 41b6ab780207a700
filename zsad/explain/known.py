"""Explanations that were made before."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = ["Explanations"]


class Explanations:
    """Answers on disk, one a line, written when they come; a line that a stopped run tore is cut off.

    Args:
        file: the file; None: they are kept in memory.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._lock, self._known = file, Lock(), dict[str, dict[str, Any]]()
        if file is not None and file.is_file():
            self._read(file)

    def _read(self, path: Path) -> None:
        with path.open("rb+") as file:
            place = 0
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else {}
                    self._known[row["key"]] = row["explanation"]
                except (ValueError, KeyError, TypeError):
                    file.truncate(place)
                    return
                place += len(line)

    def get(self, key: str) -> dict[str, Any] | None:
        """The explanation of a key; None where there is none."""
        return self._known.get(key)

    def add(self, key: str, explanation: dict[str, Any]) -> None:
        """Keeps an explanation."""
        line = json.dumps({"key": key, "explanation": explanation}).encode() + b"\n"
        with self._lock:
            self._known[key] = explanation
            if self._file is not None:
                with self._file.open("ab") as file:
                    file.write(line)
