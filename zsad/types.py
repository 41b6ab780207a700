"""The tensors that travel between the parts, as frozen dataclasses.

Letters: B pictures, L patches, C channels of a layer, D the joint image-text dimension, H x W the model's input size.
Layers are numbered from 1, as in the papers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    *("Backbone", "Bank", "Batch", "Context", "ImageFeatures", "Phase", "Prediction", "Recipe", "References", "Schedule"),
    *("Tap", "TextBackbone", "each_tensor"),
]


@dataclass(frozen=True)
class Recipe:
    """Encoder and input settings of a paper. A backbone that is named by a string is loaded so."""

    backbone: str  # name for load_backbone
    image_size: int  # side of the square input in pixels
    activation: str | None = None  # "gelu", "quick_gelu" or None (the backbone's own)
    position_embedding: str | None = None  # "bilinear", "bicubic", "bicubic_antialias" or None (the backbone's own)
    taps: tuple[int, ...] = ()  # layers whose patches are scored, 1-based
    local_start: int | None = None  # first layer of the local (surgery) path, 1-based; None: there is none
    follows_weights: bool = False  # weights that state their activation keep it; the recipe's is for state dicts on disk
    depth: int = 24  # layers of the paper's tower, which taps and local_start count
    optional: bool | tuple[str, Any] = False  # a further encoder: none unless named, if True or with (keyword, value)

    def layers(self, depth: int, taps: Sequence[int] | None = None) -> tuple[int, ...]:
        """The layers to tap in a tower of ``depth`` layers: ``taps`` where they are given, else the paper's, in proportion."""
        return tuple(taps or (max(1, tap * depth // self.depth) for tap in self.taps))

    def local_layer(self, depth: int, start: int | None = None) -> int:
        """First layer of the local path in a tower of ``depth`` layers: ``start``, else as much of its end as in the paper."""
        own = self.depth + 1 if self.local_start is None else self.local_start
        return start or depth + 1 - (self.depth + 1 - own) * depth // self.depth


@dataclass(frozen=True)
class Phase:
    """A part of a training with its own learning rates."""

    epochs: int  # of a schedule, the phases' sum is its ``epochs``
    rates: Mapping[str, float]  # learning rate by the beginning of a parameter's name; parameters without one are frozen


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings of a paper: the defaults of ``zsad.train``. The number of epochs is fixed."""

    optimizer: str = "adam"  # or "adamw", "stable_adamw"
    lr: float = 1e-3
    epochs: int = 5
    batch_size: int = 8  # pictures per step, over all processes and parts of a step together
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None  # largest norm of the gradient
    one_name: bool = True  # a step holds pictures of one category, since the loss takes one context
    labels_only: bool = False  # the loss has a term that learns from labels, so pictures without masks are of use
    lr_schedule: str = "constant"  # or "one_cycle": it rises to lr and falls to nothing; "cosine": it falls to last_lr
    last_lr: float = 0.0  # of "cosine"
    warmup: int = 0  # first steps of a run, in which the rate rises in a line from 0; ``lr_schedule`` follows them
    phases: tuple[Phase, ...] = ()  # one after the other; (): all parameters learn at lr for ``epochs``
    references: int = 0  # normal pictures of the same category that each picture comes with, drawn anew in every step
    anomalous: int = 0  # pictures of its category with a defect and its mask, likewise; of its own kind where it has one
    mosaic: float = 0.0  # part of the steps' pictures that become a 2 x 2 mosaic with others of their category


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same value with every tensor in it changed; goes into mappings and the dataclasses of this module."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: each_tensor(one, change) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{key: each_tensor(one, change) for key, one in vars(value).items()})
    return value


@dataclass(frozen=True)
class Tap:
    """Tokens of one layer."""

    patches: Tensor  # (B, L, C), raw hidden states
    grid: tuple[int, int]  # (h, w) with h * w == L
    cls: Tensor | None = None  # (B, C)


@dataclass(frozen=True)
class ImageFeatures:
    """What an image encoder extracts from B pictures, whatever the category: one pass serves many names and references.

    ``features[i:j]`` cuts pictures out, ``len(features)`` is B. A method that looks at several views of a picture keeps each
    as a stream, its patches turned back to where they lie in the picture.
    """

    image: Tensor  # (B, D)
    taps: Mapping[int, Tap] = field(default_factory=dict)  # layer -> tokens of the plain stream
    streams: Mapping[str, Mapping[int, Tap]] = field(default_factory=dict)  # name -> layer -> tokens of another stream

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, rows: slice) -> ImageFeatures:
        return each_tensor(self, lambda tensor: tensor[rows])

    def to(self, where: torch.device | str | torch.dtype) -> ImageFeatures:
        """The same features on another device, or as another floating-point type."""
        return each_tensor(self, lambda tensor: tensor.to(where))


@dataclass(frozen=True)
class Bank:
    """Memory bank of one layer or scale: reference rows, each with the number of the reference that it came from."""

    rows: Tensor  # (M, C)
    source: Tensor  # (M,) int64, number of the reference; normal ones first
    sign: int = 1  # +1 normal examples, -1 anomalous examples

    def to(self, device: torch.device | str) -> Bank:
        """The same bank on another device."""
        return each_tensor(self, lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class Context:
    """Text features, memory banks and other tensors of a category, made by ``Detector.prepare`` before a picture is scored.

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
        return each_tensor(self, lambda tensor: tensor.to(device))

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
    """Normal (and, where a method takes them, anomalous) reference images of a category, preprocessed for the backbone.

    ``banks`` stands for pictures that were encoded before: what ``Detector.banks`` made of them.
    """

    normal: Tensor | None = None  # (K, 3, H, W)
    anomalous: Tensor | None = None  # (K', 3, H, W)
    masks: Tensor | None = None  # (K', H, W) of the anomalous ones, 1 = defect; None: all of each picture counts
    sources: tuple[str, ...] = ()  # one name per picture, normal first
    banks: Mapping[str, Bank] = field(default_factory=dict)  # of pictures that were encoded before


@dataclass(frozen=True)
class Prediction:
    """Anomaly scores and anomaly maps of B pictures. Higher is more anomalous, in both."""

    pred_score: Tensor  # (B,)
    anomaly_map: Tensor  # (B, H, W) at model size
    word_maps: Tensor | None = None  # (B, len(context.words), h, w), similarity of each place to each defect word
    notes: tuple[str, ...] = ()  # what a person should know of these pictures

    def __len__(self) -> int:
        return self.pred_score.shape[0]


@dataclass(frozen=True)
class Batch:
    """Pictures of one training step, with labels and masks."""

    images: Tensor | ImageFeatures  # (B, 3, H, W), or features where the method may cache them
    labels: Tensor  # (B,) 0 normal, 1 anomalous
    masks: Tensor | None  # (B, H, W) 1 = defect; None: image labels only
    names: Sequence[str]  # category of each picture
    kinds: Sequence[str] = ()  # what each picture's defect is called, "" where it is normal or unknown; (): nothing is known
    references: Tensor | ImageFeatures | None = None  # normal pictures, ``Schedule.references`` per picture in its order
    anomalous: Tensor | ImageFeatures | None = None  # pictures with a defect, ``Schedule.anomalous`` per picture in its order
    anomalous_masks: Tensor | None = None  # (B', H, W) of these, 1 = defect


class Backbone(Protocol):
    """An image encoder, as every method needs one: an ``nn.Module`` in evaluation mode with frozen weights."""

    name: str  # as load_backbone takes it
    image_size: int  # side of the square input, pixels
    depth: int  # its layers; taps count from 1 to this
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
