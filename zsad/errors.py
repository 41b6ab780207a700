"""Every error that zsad raises on purpose, in one tree.

A message says what is wrong, what it got and what to do. The leaves name the cause::

    ZsadError
    |-- UsageError (ValueError)        a call that cannot be carried out as asked
    |   |-- UnknownName                no such method, backbone, checkpoint or argument ("did you mean ...")
    |   |-- SourceNotFound             a path that does not exist, or that holds no picture
    |   |-- SizeMismatch               an image size that is no multiple of the patch size
    |   |-- NeedsSet                   score() of a method that compares the pictures of a batch
    |   `-- NotTrained                 a method asked to score without its learned weights
    |-- ImageError                     one picture cannot be read; becomes an error row, never a dead run
    |-- MaskError                      one mask is missing, cannot be read or has another size than its picture
    |-- WriteError                     a file of a run cannot be written: a full disk
    |-- WeightsError                   weights cannot be had or do not fit
    |   |-- WeightsUnavailable         not on disk, and no network (or offline by request)
    |   |-- CheckpointMismatch         wrong keys, shapes or method
    |   |-- UnsafeCheckpoint           a pickle that would run code
    |   `-- UnsupportedBackbone        an architecture that the trunk does not cover
    `-- MissingExtra (ImportError)     an optional dependency that is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZsadError(Exception):
    """Root of all errors that zsad raises on purpose."""


class UsageError(ZsadError, ValueError):
    """A call that cannot be carried out as asked."""


class UnknownName(UsageError):
    """No such method, backbone, checkpoint or argument."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """Builds the error with the nearest known names first."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        guess = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        return cls(f"No {kind} is called {name!r}.{guess} Known: {', '.join(names) or 'none'}.")


class SourceNotFound(UsageError):
    """A path that does not exist, or that holds no picture."""


class SizeMismatch(UsageError):
    """An image size that is no multiple of the patch size; ``nearest`` is one that is."""

    def __init__(self, name: str, image_size: int, patch_size: int) -> None:
        self.nearest = max(1, round(image_size / patch_size)) * patch_size
        super().__init__(
            f"image_size={image_size} is no multiple of the patch size {patch_size} of {name}. The nearest is {self.nearest}."
        )


class NeedsSet(UsageError):
    """``score()`` was called on a method that compares the pictures of a batch with each other."""


class NotTrained(UsageError):
    """A method was asked to score without its learned weights."""


class ImageError(ZsadError):
    """One picture cannot be read."""


class MaskError(ZsadError):
    """One mask is missing, cannot be read, or does not fit its picture."""


class WriteError(ZsadError):
    """A file of a run cannot be written."""


class WeightsError(ZsadError):
    """Weights cannot be had, or do not fit."""


class WeightsUnavailable(WeightsError):
    """Weights are not on disk, and the network is missing or switched off."""


class CheckpointMismatch(WeightsError):
    """A checkpoint has other keys or shapes, or belongs to another method."""


class UnsafeCheckpoint(WeightsError):
    """A pickle that would run code when loaded."""


class UnsupportedBackbone(WeightsError):
    """An architecture that the trunk does not cover."""


class MissingExtra(ZsadError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency. Install it with: pip install 'zsad[{extra}]'")
        self.extra = extra
