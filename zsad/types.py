"""The tensors that travel between the parts, as frozen dataclasses.

Letters: B pictures, L patches, C channels of a layer, D the joint image-text dimension, H x W the model's input size.
Layers are numbered from 1, as in the papers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "Backbone",
    "Bank",
    "Batch",
    "Context",
    "ImageFeatures",
    "Prediction",
    "Recipe",
    "References",
    "Schedule",
    "Tap",
    "TextBackbone",
]


@dataclass(frozen=True)
class Recipe:
    """What a paper runs on. A backbone that is named by a string is loaded so.

    Attributes:
        backbone: name for ``load_backbone``.
        image_size: side of the square input in pixels.
        activation: ``"gelu"``, ``"quick_gelu"`` or None (the backbone's own).
        position_embedding: ``"bilinear"``, ``"bicubic"``, ``"bicubic_antialias"`` or None (the backbone's own).
        taps: layers whose patches are scored, 1-based, for the recipe's own depth.
        local_start: first layer of the local (surgery) path, 1-based, or None.
        follows_weights: weights that say what activation they were trained with keep it; the recipe's is for state dicts.
    """

    backbone: str
    image_size: int
    activation: str | None = None
    position_embedding: str | None = None
    taps: tuple[int, ...] = ()
    local_start: int | None = None
    follows_weights: bool = False


@dataclass(frozen=True)
class Schedule:
    """How a paper trains: the defaults of ``zsad.train``. The number of epochs is fixed.

    Attributes:
        optimizer: "adam" or "adamw".
        lr: learning rate.
        epochs: passes over the pictures.
        batch_size: pictures per step, over all processes and parts of a step together.
        betas: of the optimizer.
        weight_decay: of the optimizer.
        clip: largest norm of the gradient, or None.
        one_name: a step holds pictures of one category, since the loss takes one context.
        labels_only: the loss has a term that learns from labels, so pictures without masks are of use.
        lr_schedule: "constant", or "one_cycle": the rate rises to ``lr`` and falls to nothing within the run.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    epochs: int = 5
    batch_size: int = 8
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    one_name: bool = True
    labels_only: bool = False
    lr_schedule: str = "constant"


@dataclass(frozen=True)
class Tap:
    """One layer's tokens."""

    patches: Tensor  # (B, L, C), raw hidden states
    grid: tuple[int, int]  # (h, w) with h * w == L
    cls: Tensor | None = None  # (B, C)

    def __getitem__(self, rows: slice) -> Tap:
        return replace(self, patches=self.patches[rows], cls=None if self.cls is None else self.cls[rows])

    def to(self, where: torch.device | str | torch.dtype) -> Tap:
        return replace(self, patches=self.patches.to(where), cls=None if self.cls is None else self.cls.to(where))


@dataclass(frozen=True)
class ImageFeatures:
    """Everything that a picture gives without a name: one pass serves many names and references.

    ``features[i:j]`` cuts pictures out, ``len(features)`` is B.
    """

    image: Tensor  # (B, D)
    taps: Mapping[int, Tap] = field(default_factory=dict)  # layer -> tokens of the plain stream
    streams: Mapping[str, Mapping[int, Tap]] = field(default_factory=dict)  # name -> layer -> tokens of another stream

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, rows: slice) -> ImageFeatures:
        return ImageFeatures(
            self.image[rows],
            {layer: tap[rows] for layer, tap in self.taps.items()},
            {name: {layer: tap[rows] for layer, tap in taps.items()} for name, taps in self.streams.items()},
        )

    def to(self, where: torch.device | str | torch.dtype) -> ImageFeatures:
        """The same features on another device, or as another floating-point type."""
        return ImageFeatures(
            self.image.to(where),
            {layer: tap.to(where) for layer, tap in self.taps.items()},
            {name: {layer: tap.to(where) for layer, tap in taps.items()} for name, taps in self.streams.items()},
        )


@dataclass(frozen=True)
class Bank:
    """Reference rows of one layer or scale; each row knows which reference it came from."""

    rows: Tensor  # (M, C)
    source: Tensor  # (M,) int64, index of the reference
    sign: int = 1  # +1 normal examples, -1 anomalous examples

    def to(self, device: torch.device | str) -> Bank:
        return replace(self, rows=self.rows.to(device), source=self.source.to(device))


@dataclass(frozen=True)
class Context:
    """What a method knows about a category before it sees a picture.

    Attributes:
        text: (1 or B, 2, D), row 0 normal, row 1 anomalous; None for methods without text.
        sentences: the exact sentences per class of text ("normal", "anomalous", or a defect word).
        words: defect words that the method can tell apart, in the order of ``Prediction.word_maps``.
        banks: reference rows by name.
        extra: further tensors of a method, by name.
    """

    text: Tensor | None = None
    sentences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    banks: Mapping[str, Bank] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Context:
        """The same context on another device."""
        return replace(
            self,
            text=None if self.text is None else self.text.to(device),
            banks={key: bank.to(device) for key, bank in self.banks.items()},
            extra={key: tensor.to(device) for key, tensor in self.extra.items()},
        )

    def save(self, path: str | Path) -> None:
        """Writes the context as one safetensors file."""
        tensors = {f"extra.{key}": tensor for key, tensor in self.extra.items()}
        if self.text is not None:
            tensors["text"] = self.text
        for key, bank in self.banks.items():
            tensors |= {f"rows.{key}": bank.rows, f"source.{key}": bank.source}
        header = {
            "sentences": {key: list(lines) for key, lines in self.sentences.items()},
            "words": list(self.words),
            "signs": {key: bank.sign for key, bank in self.banks.items()},
        }
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, path, {"zsad.context": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Context:
        """Reads what ``save`` wrote."""
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})["zsad.context"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        return cls(
            text=tensors.get("text"),
            sentences={key: tuple(lines) for key, lines in header["sentences"].items()},
            words=tuple(header["words"]),
            banks={k: Bank(tensors[f"rows.{k}"], tensors[f"source.{k}"], s) for k, s in header["signs"].items()},
            extra={key.removeprefix("extra."): t for key, t in tensors.items() if key.startswith("extra.")},
        )


@dataclass(frozen=True)
class References:
    """Normal (and, where a method takes them, anomalous) pictures of the category, preprocessed for the backbone.

    ``banks`` stands for pictures that were encoded before: what ``Detector.reference_rows`` says of them.
    """

    normal: Tensor | None = None  # (K, 3, H, W)
    anomalous: Tensor | None = None  # (K', 3, H, W)
    masks: Tensor | None = None  # (K', H, W), 1 = defect
    sources: tuple[str, ...] = ()  # one name per picture, normal first
    banks: Mapping[str, Bank] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a method says of B pictures. Higher is more anomalous, in both fields."""

    pred_score: Tensor  # (B,)
    anomaly_map: Tensor  # (B, H, W) at model size
    word_maps: Tensor | None = None  # (B, len(context.words), h, w), similarity of each place to each defect word
    notes: tuple[str, ...] = ()  # what a person should know of these pictures

    def __len__(self) -> int:
        return self.pred_score.shape[0]


@dataclass(frozen=True)
class Batch:
    """One step of training."""

    images: Tensor | ImageFeatures  # (B, 3, H, W), or features where the method may cache them
    labels: Tensor  # (B,) 0 normal, 1 anomalous
    masks: Tensor | None  # (B, H, W) 1 = defect; None: image labels only
    names: Sequence[str]  # category of each picture
    kinds: Sequence[str] = ()  # what each picture's defect is called, "" where it is normal or unknown; (): nothing is known
    references: References | None = None


class Backbone(Protocol):
    """An image encoder: what every method needs. All are ``nn.Module``s in evaluation mode with frozen weights."""

    name: str  # as load_backbone takes it
    image_size: int  # side of the square input, pixels
    activation: str
    position_embedding: str
    weights_sha256: str  # of the weights' bytes, "" where they are random

    def encode_image(self, images: Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """(B, 3, H, W) preprocessed -> pooled features and the raw hidden states of the tapped layers."""

    def preprocess(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        """(H, W, 3) uint8 RGB of any size -> (3, image_size, image_size) float32."""


class TextBackbone(Backbone, Protocol):
    """An image encoder with a text tower in the same space."""

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """N sentences -> (N, D), not normalised."""
