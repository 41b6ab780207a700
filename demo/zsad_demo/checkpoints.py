"""Checkpoints and exported models that the operator loads at the start; a visitor chooses among them by name, never by path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zsad
from zsad.exports import is_folder, open_export
from zsad.exports.detector import Exported
from zsad.exports.metadata import FILE


@dataclass(frozen=True)
class Checkpoint:
    """A detector with loaded weights.

    Attributes:
        detector: built before the page is served, so that an error shows at the start and nothing is downloaded later.
        source: the file, folder or "org/name" that the weights, or the exported model, were loaded from.
    """

    detector: zsad.Detector
    source: str

    @property
    def name(self) -> str:
        """Name on the page: the file's name without its folder, and the first digits of its SHA-256."""
        return f"{Path(self.source).name} ({self.detector.weights_sha256[:8]})"

    @property
    def exported(self) -> Exported | None:
        """The detector where it is an exported model: one target, no words, its references inside; else None."""
        return self.detector if isinstance(self.detector, Exported) else None

    @property
    def key(self) -> str:
        """Name in the menu and for the endpoints: the method, or the folder of an exported model."""
        return Path(self.source).resolve().name if self.exported else self.detector.name

    def inspector(self, target: str, arguments: Mapping[str, Any]) -> zsad.Inspector:
        """An inspector for a target; all targets share the detector, unless the method gets arguments."""
        again = open_export if self.exported else zsad.from_pretrained
        detector = again(self.source, **arguments) if arguments else self.detector
        return zsad.Inspector(detector, target)


def load(sources: Iterable[str]) -> dict[str, Checkpoint]:
    """Checkpoints by method, exported models by the names of their folders.

    Args:
        sources: "FILE" that zsad wrote (or a folder, or "org/name" of the hub), "METHOD=FILE" of a method's authors, or a
            folder that ``zsad export`` wrote.

    Raises:
        zsad.ZsadError: weights that cannot be loaded, two checkpoints for one method, or two models of one name.
    """
    found: dict[str, Checkpoint] = {}
    for source in sources:
        method, sign, path = source.partition("=")
        if sign and method in zsad.list_methods():
            checkpoint = Checkpoint(zsad.create(method, checkpoint=path), path)
        elif is_folder(source) and (Path(source) / FILE).is_file():
            checkpoint = Checkpoint(open_export(source), source)
        else:
            checkpoint = Checkpoint(zsad.from_pretrained(source), source)
        name = checkpoint.key
        if checkpoint.exported and (name in found or name in zsad.list_methods()):
            raise zsad.ZsadError(f"The page has another method called {name!r}. Rename the exported model's folder {source!r}.")
        if name in found:
            raise zsad.ZsadError(
                f"Two checkpoints of {name} were given, {found[name].name} and {checkpoint.name}. Give one per method; serve "
                "the other one on another --port."
            )
        found[name] = checkpoint
    return found
