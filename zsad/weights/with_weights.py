"""The part of every method that has to do with its learned weights: which they are, loading, saving, publishing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsad.errors import NotTrained
from zsad.types import Recipe
from zsad.weights import hub
from zsad.weights import learned as weights
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["WithWeights"]


class WithWeights(nn.Module):
    """A module with frozen encoders, whose own tensors are learned."""

    name: ClassVar[str]  # in the registry
    learned: bool = False  # True: must not score before weights were trained or loaded
    optional_weights: ClassVar[bool] = False  # True: scores without learned weights; a constructor may set ``learned``
    authors_file: ClassVar[AuthorsFile] = AuthorsFile()  # layout of the authors' checkpoints
    counted: ClassVar[tuple[str, str]] = ("", "")  # a keyword that is the number of rows of a stored tensor, and that tensor
    not_saved: ClassVar[tuple[str, ...]] = ()  # keywords that say what to score with and are no part of learned weights
    # further frozen encoders by constructor keyword, such as {"attention": Recipe("hf:org/dinov2", 518)}; ``create`` takes a
    # name or a built one for each and hands the built one to the constructor, as it does with the backbone
    encoders: ClassVar[Mapping[str, Recipe]] = {}
    backbone: Any  # an nn.Module with the attributes of types.Backbone
    trained: bool
    weights_sha256: str  # of the learned weights' file
    header: dict[str, Any]  # of the learned weights' file

    def arguments(self) -> dict[str, Any]:
        """The constructor's keywords and their values: with the encoders' names, they are the method's configuration."""
        keys = list(inspect.signature(type(self).__init__).parameters)[2:]
        return {key: getattr(self, key) for key in keys if key not in self.encoders}

    def frozen_encoders(self) -> dict[str, Any]:
        """The backbone and the further ``encoders`` that are in use, by keyword."""
        return {key: one for key in ("backbone", *self.encoders) if (one := getattr(self, key)) is not None}

    def learned_state(self) -> dict[str, Tensor]:
        """The method's own tensors, without the encoders'."""
        frozen = tuple(f"{key}." for key in self.frozen_encoders())
        return {key: tensor for key, tensor in self.state_dict().items() if not key.startswith(frozen)}

    def foreign_state(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors of the authors' file under own names, by ``authors_file``."""
        return self.authors_file.own_names(state)

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor keywords that the shapes in the authors' file imply, by ``counted``; ``state`` has own names already."""
        keyword, tensor = cls.counted
        return {keyword: len(state[tensor])} if tensor in state else {}

    @classmethod
    def stored_arguments(cls, checkpoint: str | Path | None, tag: str | None) -> dict[str, Any]:
        """Constructor keywords that a checkpoint was saved with, or that its shapes imply."""
        return weights.stored_arguments(cls, checkpoint, tag)

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
        """Loads the method's own tensors. Raises ``CheckpointMismatch`` unless every key and shape fits."""
        weights.load_strictly(self, tensors, origin)

    def restore(self, checkpoint: str | Path | None = None, tag: str | None = None) -> None:
        """Loads learned weights by path, or by the tag of ``checkpoints/index.toml``; does nothing where neither is given."""
        weights.restore(self, checkpoint, tag)

    def load(self, path: str | Path) -> None:
        """Loads what ``save`` wrote or the authors published; see ``zsad.weights.learned.load``."""
        weights.load(self, path)

    def save(self, path: str | Path, **about: Any) -> dict[str, Any]:
        """Writes the learned weights as safetensors with a header, which it returns; ``about`` goes into it."""
        return weights.save(self, path, **about)

    def push_to_hub(self, target: str | Path, *, figures: Mapping[str, Any] | None = None, private: bool = False) -> str:
        """Publishes the learned weights with a model card; see ``zsad.weights.hub.publish``."""
        return hub.push_to_hub(self, target, figures=figures, private=private)

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
