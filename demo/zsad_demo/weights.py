"""Learned weights that whoever serves the page gives it; a visitor chooses among them by name, and never by a path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zsad


@dataclass(frozen=True)
class Given:
    """A method with its weights.

    Attributes:
        detector: built, so that what is wrong is said before the page is served, and nothing is downloaded later.
        source: the file, folder or "org/name" that they come from.
    """

    detector: zsad.Detector
    source: str

    @property
    def name(self) -> str:
        """What the page calls them: the file's name without its folder, and the first digits of its SHA-256."""
        return f"{Path(self.source).name} ({self.detector.weights_sha256[:8]})"

    def inspector(self, target: str, arguments: Mapping[str, Any]) -> zsad.Inspector:
        """The judge of a target; all targets share the detector, unless there are keywords of the method."""
        detector = zsad.from_pretrained(self.source, **arguments) if arguments else self.detector
        return zsad.Inspector(detector, target)


def load(texts: Iterable[str]) -> dict[str, Given]:
    """Weights by method.

    Args:
        texts: "FILE" that zsad wrote (or a folder, or "org/name" of the hub), or "METHOD=FILE" of a method's authors.

    Raises:
        zsad.ZsadError: weights that cannot be loaded, or two for one method.
    """
    found: dict[str, Given] = {}
    for text in texts:
        method, sign, path = text.partition("=")
        if sign and method in zsad.list_methods():
            given = Given(zsad.create(method, checkpoint=path), path)
        else:
            given = Given(zsad.from_pretrained(text), text)
        name = given.detector.name
        if name in found:
            raise zsad.ZsadError(
                f"Two checkpoints of {name} were given, {found[name].name} and {given.name}. Give one per method; another page "
                "can be served on another --port."
            )
        found[name] = given
    return found
