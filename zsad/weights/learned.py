"""Learned weights of a detector: found by path or tag, loaded strictly, written with a header."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from zsad.errors import CheckpointMismatch, SourceNotFound, UsageError
from zsad.weights import several_files
from zsad.weights.checkpoints import AuthorsFile, find_checkpoint, read_header, write_learned
from zsad.weights.download import HUB, WEIGHTS, downloaded

__all__ = ["facts_of", "load", "load_strictly", "locate", "restore", "save", "stored_arguments"]

log = logging.getLogger("zsad")
FACTS = ("name", "image_size", "activation", "position_embedding", "weights_sha256")  # of an encoder
OF_THE_DETECTOR = ("method", "arguments", "backbone", "encoders")  # keys of a header; the others are ``save``'s ``about``
IN_FOLDERS = ("final.safetensors", WEIGHTS)  # of ``zsad.train``, of ``publish``
SHOWN = 6  # keys that a message names


class Learned(Protocol):
    """The parts of a ``Detector`` that its files are made of."""

    name: ClassVar[str]
    learned: bool
    optional_weights: ClassVar[bool]
    authors_file: ClassVar[AuthorsFile]
    not_saved: ClassVar[tuple[str, ...]]
    trained: bool
    header: dict[str, Any]
    weights_sha256: str

    def arguments(self) -> dict[str, Any]:
        """Constructor keywords and their values."""

    def frozen_encoders(self) -> dict[str, Any]:
        """Encoders by keyword."""

    def learned_state(self) -> dict[str, Tensor]:
        """Learned tensors."""

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = ...) -> None:
        """Loads them."""

    def foreign_state(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """Tensors of the authors' file under own names."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """As ``nn.Module``."""

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor keywords from shapes."""


def facts_of(detector: Learned) -> dict[str, Any]:
    """Name, size, activation and digest of the encoders: "backbone", and "encoders" by keyword where there are further ones."""
    own = {key: {fact: getattr(one, fact) for fact in FACTS} for key, one in detector.frozen_encoders().items()}
    backbone = own.pop("backbone")
    return {"backbone": backbone, "encoders": own} if own else {"backbone": backbone}


def locate(checkpoint: str | Path, layout: AuthorsFile | None = None) -> Path:
    """The file that a checkpoint's name stands for, or the folder with the files of ``layout``.

    Args:
        checkpoint: a file; a folder of ``zsad.train`` or ``publish``; or "hf://org/name", which is downloaded into the hub's
            cache, announced first.
        layout: of the authors' files, which may be several in a folder.

    Raises:
        SourceNotFound: a folder without weights.
        WeightsUnavailable: no network, no such repository, or no weights in it.
    """
    if remote := HUB.fullmatch(str(checkpoint)):
        return downloaded(remote["repository"])
    path = Path(checkpoint)
    if not path.is_dir():
        return path
    found = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
    if found is None and layout is not None and several_files.parts_of(path, layout):
        return path
    if found is None:
        raise SourceNotFound(f"The folder {str(path)!r} has neither {' nor '.join(IN_FOLDERS)}. Name the file of weights.")
    return found


def save(detector: Learned, path: str | Path, **about: Any) -> dict[str, Any]:
    """Writes the learned weights (never an encoder's) as safetensors, and returns their header.

    Args:
        detector: whose weights.
        path: of the file.
        **about: further entries of the header: trained_on, licence, ...
    """
    kept = {key: value for key, value in detector.arguments().items() if key not in detector.not_saved}
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}
    header = {"method": detector.name, "arguments": arguments} | facts_of(detector) | about
    write_learned(path, detector.learned_state(), header)
    return header


def load(detector: Learned, path: str | Path) -> None:
    """Reads what ``save`` wrote, or the authors' file through ``foreign_state``, strictly.

    Args:
        detector: gets the weights, their header and their digest.
        path: whatever ``locate`` takes.

    Raises:
        CheckpointMismatch: another method's file, or other keys or shapes.
    """
    path = locate(path, detector.authors_file)
    header = read_header(path)
    if header and header.get("method") != detector.name:
        raise CheckpointMismatch(f"{path.name} was saved by {header.get('method')!r}, not by {detector.name!r}.")
    state = several_files.read(path, detector.authors_file)
    detector.load_learned(state if header else detector.foreign_state(state), path.name)
    detector.header, detector.weights_sha256 = header, several_files.digest(path, detector.authors_file)
    _compare_encoders(header, facts_of(detector), path.name)


def _compare_encoders(header: Mapping[str, Any], own: Mapping[str, Any], file: str) -> None:
    """Warns where an encoder has other settings than the one that the weights were learned on."""
    before, now = ({"backbone": facts.get("backbone", {}), **facts.get("encoders", {})} for facts in (header, own))
    for keyword, facts in before.items():
        for fact in FACTS[1:4]:
            if fact in facts and keyword in now and facts[fact] != now[keyword][fact]:
                then, here = facts[fact], now[keyword][fact]
                log.warning("%s was learned with %s=%r; this %s has %r.", file, fact, then, keyword, here)


def load_strictly(detector: Learned, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
    """Loads the detector's own tensors; every key and shape has to fit.

    Raises:
        CheckpointMismatch: names what is missing, what is unexpected and which shapes differ.
    """
    own = detector.learned_state()
    shapes = [
        f"{key} is {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & tensors.keys())
        if tensors[key].shape != own[key].shape
    ]
    keys = {"missing": sorted(own.keys() - tensors.keys()), "unexpected": sorted(tensors.keys() - own.keys())}
    wrong = [f"{what}: {', '.join(some[:SHOWN])}{' ...' if len(some) > SHOWN else ''}" for what, some in keys.items() if some]
    if wrong or shapes:
        raise CheckpointMismatch(f"{origin} does not fit {detector.name}. " + "; ".join(wrong + shapes[:SHOWN]) + ".")
    detector.load_state_dict(dict(tensors), strict=False)  # the keys were compared above; the encoders' stay
    detector.trained = True


def restore(detector: Learned, checkpoint: str | Path | None = None, tag: str | None = None) -> None:
    """Loads learned weights by path, or by the tag of ``checkpoints/index.toml``; does nothing where neither is given.

    Raises:
        UsageError: the method learns nothing.
    """
    if (checkpoint or tag) and not detector.learned_state():
        raise UsageError(f"{detector.name} has no learned weights, so there is no checkpoint to load. Leave it out.")
    if checkpoint is not None:
        load(detector, checkpoint)
    elif tag is not None:
        load(detector, find_checkpoint(f"{detector.name}.{tag}"))


def stored_arguments(cls: type[Learned], checkpoint: str | Path | None, tag: str | None) -> dict[str, Any]:
    """Constructor keywords that a file of learned weights was saved with, or that its shapes imply.

    Raises:
        CheckpointMismatch: its header names a path of the machine it was written on.
    """
    if not (cls.learned or cls.optional_weights) or not (checkpoint or tag):
        return {}
    path = locate(checkpoint, cls.authors_file) if checkpoint else find_checkpoint(f"{cls.name}.{tag}")
    if not (header := read_header(path)):
        return cls.implied_arguments(cls.authors_file.own_names(several_files.read(path, cls.authors_file)))
    if header.get("method") != cls.name:
        return {}  # load() refuses it
    known = list(inspect.signature(cls.__init__).parameters)[2:]
    stored = {key: value for key, value in dict(header.get("arguments", {})).items() if key in known}
    if outside := [key for key, value in stored.items() if isinstance(value, str) and Path(value).name != value]:
        raise CheckpointMismatch(
            f"The header of {path.name} asks for the path {stored[outside[0]]!r} as {outside[0]}; pass {outside[0]}=."
        )
    return stored
