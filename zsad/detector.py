"""The contract that every method fulfils."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsad.errors import CheckpointMismatch, NeedsSet, NotTrained, UsageError
from zsad.types import Backbone, Bank, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule
from zsad.weights.checkpoints import find_checkpoint, read_header, read_state_dict, sha256_of, write_learned
from zsad.weights.hub import locate, publish

__all__ = ["Detector"]

log = logging.getLogger("zsad")
BACKBONE_FACTS = ("name", "image_size", "activation", "position_embedding", "weights_sha256")
REFERENCE_BATCH = 8  # pictures per pass where references are encoded


class Detector(nn.Module):
    """A zero- or few-shot anomaly detector: ``prepare`` a category, ``encode`` pictures, ``score`` them.

    A subclass stores its keywords in the constructor and does nothing else there but build its modules; the keywords'
    defaults are the paper's values. In evaluation mode no method writes anything on ``self``.

    Attributes:
        name: the name in the registry.
        recipe: what the paper runs on.
        needs: attributes that the backbone must have.
        cacheable: False where ``encode`` runs learned weights, so that training may not cache its output.
        schedule: how the paper trains; the defaults of ``zsad.train``.
        learned: True where the method must not score before weights were trained or loaded.
        smallest_set: pictures that it takes where they judge each other.
        map_range: the two values of the anomaly map that the fixed colour scale draws as its ends, for every picture alike.
        word_margin: a region's defect word is suggested only where its similarity exceeds the second's by this; None: never.
    """

    name: ClassVar[str]
    recipe: ClassVar[Recipe]
    needs: ClassVar[tuple[str, ...]] = ()
    cacheable: ClassVar[bool] = True
    learned: ClassVar[bool] = False
    schedule: ClassVar[Schedule] = Schedule()
    smallest_set: ClassVar[int] = 1
    map_range: tuple[float, float] = (0.0, 1.0)
    word_margin: float | None = None
    # an nn.Module with the attributes of types.Backbone
    backbone: Any

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.trained = not self.learned
        self.weights_sha256 = ""  # of the learned weights' file
        self.header: dict[str, Any] = {}  # of the learned weights' file

    # ------------------------------------------------------------------ the two-step contract
    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """What the method needs to know about a category, once: text features, sentences, banks.

        Args:
            name: the object's name, as a person would say it.
            references: normal pictures; only for methods that take them. They are in the context's banks and nowhere else,
                so that one can be taken out of them later.
        """
        raise NotImplementedError

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) preprocessed pictures -> everything that needs no context."""
        raise NotImplementedError

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Scores and maps of B pictures. Raises ``NeedsSet`` where ``needs_set(context)``."""
        raise NotImplementedError

    def forward(self, images: Tensor, context: Context) -> Prediction:
        """(B, 3, H, W) preprocessed pictures and a context -> ``Prediction``; pure in evaluation mode."""
        return self.score(self.encode(images), context)

    def needs_set(self, context: Context) -> bool:
        """True where a picture's score depends on the other pictures; then ``score_set`` is the way."""
        return False

    def scales_within_set(self, context: Context) -> str:
        """How to avoid that scores are scaled to a set's own extremes, where they are; "": they are not."""
        return ""

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """One prediction per picture (B = 1) of a whole set; ``features`` may live on disk."""
        if self.needs_set(context):
            raise NeedsSet(f"{self.name} judges pictures against each other and has to say how.")
        for one in features:
            yield self.score(one, context)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Named parts of the training loss; the trainer sums and logs them."""
        raise UsageError(f"{self.name} has nothing to train.")

    # ------------------------------------------------------------------ references
    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """What B pictures leave in the banks as references: (B, M, C) by layer or scale. By default the tapped patches."""
        return {str(layer): tap.patches for layer, tap in features.taps.items()}

    def banks(self, references: References | None) -> dict[str, Bank]:
        """The references' rows, encoded ``REFERENCE_BATCH`` pictures at a time; {} where there are none.

        Raises:
            UsageError: neither pictures nor banks, or anomalous ones.
        """
        if references is None:
            return {}
        if references.anomalous is not None:
            raise UsageError(f"{self.name} takes normal references only; leave the anomalous ones out.")
        if references.banks:
            return dict(references.banks)
        if references.normal is None or not len(references.normal):
            raise UsageError("References without a picture were given. Leave them out, or give at least one normal picture.")
        parts: dict[str, list[Tensor]] = {}
        for images in references.normal.split(REFERENCE_BATCH):
            for key, rows in self.reference_rows(self.encode(images)).items():
                parts.setdefault(key, []).append(rows)
        found = {}
        for key, pieces in parts.items():
            whole = torch.cat(pieces)  # (K, M, C)
            source = torch.arange(len(whole), device=whole.device).repeat_interleave(whole.shape[1])
            found[key] = Bank(whole.flatten(0, 1), source)
        return found

    # ------------------------------------------------------------------ arguments and learned weights
    def arguments(self) -> dict[str, Any]:
        """The constructor's keywords and their values: with the backbone's name, they are the method's configuration."""
        keys = list(inspect.signature(type(self).__init__).parameters)[2:]
        return {key: getattr(self, key) for key in keys}

    def learned_state(self) -> dict[str, Tensor]:
        """The method's own tensors, without the backbone's."""
        return {key: tensor for key, tensor in self.state_dict().items() if not key.startswith("backbone.")}

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
        """Loads the method's own tensors strictly.

        Raises:
            CheckpointMismatch: names what is missing, what is unexpected and which shapes differ.
        """
        own = self.learned_state()
        wrong = [
            f"{key} is {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
            for key in sorted(own.keys() & tensors.keys())
            if tensors[key].shape != own[key].shape
        ]
        parts = {"missing": sorted(own.keys() - tensors.keys()), "unexpected": sorted(tensors.keys() - own.keys())}
        said = [f"{what}: {', '.join(keys[:6])}{' ...' if len(keys) > 6 else ''}" for what, keys in parts.items() if keys]
        if wrong or said:
            raise CheckpointMismatch(f"{origin} does not fit {self.name}. " + "; ".join(said + wrong[:6]) + ".")
        self.load_state_dict(dict(tensors), strict=False)  # the keys were compared above; the backbone's stay
        self.trained = True

    def save(self, path: str | Path, **about: Any) -> dict[str, Any]:
        """Writes the learned weights (never the backbone's) as safetensors, and returns their header.

        ``about`` is what else the header says: trained_on, licence, ...
        """
        arguments = {key: list(v) if isinstance(v, tuple) else v for key, v in self.arguments().items()}
        header = {"method": self.name, "arguments": arguments, "backbone": self._backbone_facts()} | about
        write_learned(path, self.learned_state(), header)
        return header

    def push_to_hub(self, target: str | Path, *, figures: Mapping[str, Any] | None = None, private: bool = False) -> str:
        """Publishes the learned weights with a card; see ``publish``. Weights that were loaded keep their header.

        Args:
            target: "hf://org/name" or "org/name" on the Hugging Face hub, or a folder; see ``publish`` for which is which.
            figures: results for the card, by name; say on which data, which must not have been learned from.
            private: whether others may not see a repository that is made anew.
        """
        self.require_trained()
        kept = {key: value for key, value in self.header.items() if key not in ("method", "arguments", "backbone")}
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "weights.safetensors", **kept)
            return publish(Path(folder) / "weights.safetensors", target, figures=figures, private=private)

    def _backbone_facts(self) -> dict[str, Any]:
        return {key: getattr(self.backbone, key) for key in BACKBONE_FACTS}

    def load(self, path: str | Path) -> None:
        """Reads what ``save`` wrote, strictly; subclasses that know their authors' files extend ``foreign_state``.

        Args:
            path: a file, a folder of ``zsad.train`` or ``push_to_hub``, or "hf://org/name".

        Raises:
            CheckpointMismatch: another method's file, or other keys or shapes.
        """
        path = locate(path)
        header = read_header(path)
        if header and header.get("method") != self.name:
            raise CheckpointMismatch(f"{Path(path).name} was saved by {header.get('method')!r}, not by {self.name!r}.")
        state = read_state_dict(path)
        self.load_learned(state if header else self.foreign_state(state), Path(path).name)
        self.header, self.weights_sha256 = header, sha256_of(path)
        learned_on, own = header.get("backbone", {}), self._backbone_facts()
        for key in BACKBONE_FACTS[1:4]:
            if key in learned_on and learned_on[key] != own[key]:
                log.warning("%s was learned with %s=%r; this backbone has %r.", Path(path).name, key, learned_on[key], own[key])

    @classmethod
    def stored_arguments(cls, checkpoint: str | Path | None, tag: str | None) -> dict[str, Any]:
        """Constructor keywords that a file of learned weights was saved with, or that its shapes imply."""
        if not cls.learned or not (checkpoint or tag):
            return {}
        path = locate(checkpoint) if checkpoint else find_checkpoint(f"{cls.name}.{tag}")
        if not (header := read_header(path)):
            return cls.implied_arguments(read_state_dict(path))
        if header.get("method") != cls.name:
            return {}  # load() says so
        known = list(inspect.signature(cls.__init__).parameters)[2:]
        stored = {key: value for key, value in dict(header.get("arguments", {})).items() if key in known}
        if outside := [key for key, value in stored.items() if isinstance(value, str) and Path(value).name != value]:
            raise CheckpointMismatch(
                f"The header of {Path(path).name} asks for the path {stored[outside[0]]!r} as {outside[0]}; pass {outside[0]}=."
            )
        return {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor keywords that the shapes of the authors' tensors say."""
        return {}

    def foreign_state(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """Renames the authors' keys at the border; by default there is nothing to rename."""
        return state

    def restore(self, checkpoint: str | Path | None = None, tag: str | None = None) -> None:
        """Loads learned weights by path, or by the tag of ``checkpoints/index.toml``; does nothing where neither is given."""
        if (checkpoint or tag) and not self.learned_state():
            raise UsageError(f"{self.name} has no learned weights, so there is no checkpoint to load. Leave it out.")
        if checkpoint is not None:
            self.load(checkpoint)
        elif tag is not None:
            self.load(find_checkpoint(f"{self.name}.{tag}"))

    def require_trained(self) -> None:
        """Raises ``NotTrained`` where the method has no learned weights yet."""
        if not self.trained:
            raise NotTrained(
                f"{self.name} has no learned weights yet, and its scores would be noise. Pass checkpoint='path/to/file', "
                f"or name one: create('{self.name}.tag'); `zsad list` shows what there is."
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
