"""The models: recently used inspectors in memory, shared by all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zsad
from zsad_demo.checkpoints import Checkpoint

CAPACITY = 4  # inspectors in memory
DEFAULT = "compact"
# keywords of a method in the demo; musc runs on the backbone that ships, so that it needs no download
SHIPPED = {"tipsomaly": "tipsomaly.mvtec"}  # learned weights that come with zsad
KEYWORDS: dict[str, dict[str, Any]] = {"musc": {"backbone": "compact"}}


@dataclass(frozen=True)
class InspectorKey:
    """Requests with equal keys share an inspector."""

    method: str = DEFAULT
    target: str = "object"
    words: tuple[str, ...] = ()
    focus: tuple[str, ...] = ()
    ignore_words: tuple[str, ...] = ()


class InspectorCache:
    """The most recently used inspectors, without references or thresholds; every ``zsad.Session`` forks its own.

    Args:
        checkpoints: loaded weights by method.
    """

    def __init__(self, checkpoints: Mapping[str, Checkpoint] | None = None) -> None:
        self._checkpoints = checkpoints or {}
        self._kept: OrderedDict[InspectorKey, zsad.Inspector] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: InspectorKey) -> zsad.Inspector:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._built(key)
            self._kept.move_to_end(key)
            while len(self._kept) > CAPACITY:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _built(self, key: InspectorKey) -> zsad.Inspector:
        given = {"words": key.words, "focus": key.focus, "ignore_words": key.ignore_words}
        words: dict[str, Any] = {name: one for name, one in given.items() if one}
        if key.method in self._checkpoints:
            return self._checkpoints[key.method].inspector(key.target, words)
        return zsad.Inspector(SHIPPED.get(key.method, key.method), key.target, **KEYWORDS.get(key.method, {}), **words)
