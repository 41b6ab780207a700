"""Checkpoints that the operator of the page loads at its start; a visitor chooses among them by method, never by a path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zsad


@dataclass(frozen=True)
class Checkpoint:
    """A detector with loaded weights.

    Attributes:
        detector: built before the page is served, so that an error shows at the start and nothing is downloaded later.
        source: the file, folder or "org/name" that the weights were loaded from.
    """

    detector: zsad.Detector
    source: str

    @property
    def name(self) -> str:
        """Name on the page: the file's name without its folder, and the first digits of its SHA-256."""
        return f"{Path(self.source).name} ({self.detector.weights_sha256[:8]})"

    def inspector(self, target: str, arguments: Mapping[str, Any]) -> zsad.Inspector:
        """An inspector for a target; all targets share the detector, unless the method gets arguments."""
        detector = zsad.from_pretrained(self.source, **arguments) if arguments else self.detector
        return zsad.Inspector(detector, target)


def load(sources: Iterable[str]) -> dict[str, Checkpoint]:
    """Checkpoints by method.

    Args:
        sources: "FILE" that zsad wrote (or a folder, or "org/name" of the hub), or "METHOD=FILE" of a method's authors.

    Raises:
        zsad.ZsadError: weights that cannot be loaded, an exported model, or two checkpoints for one method.
    """
    found: dict[str, Checkpoint] = {}
    for source in sources:
        if (Path(source) / "metadata.json").is_file():
            raise zsad.ZsadError(
                f"{source!r} is an exported model, which has one target and its references inside; visitors of the page choose "
                "theirs. Give the checkpoint that it was exported from, or run it with zsad predict --method."
            )
        method, sign, path = source.partition("=")
        if sign and method in zsad.list_methods():
            checkpoint = Checkpoint(zsad.create(method, checkpoint=path), path)
        else:
            checkpoint = Checkpoint(zsad.from_pretrained(source), source)
        name = checkpoint.detector.name
        if name in found:
            raise zsad.ZsadError(
                f"Two checkpoints of {name} were given, {found[name].name} and {checkpoint.name}. Give one per method; serve "
                "the other one on another --port."
            )
        found[name] = checkpoint
    return found
