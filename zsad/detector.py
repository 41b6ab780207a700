"""The contract that every method fulfils."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zsad.alignment.blocks import is_exporting
from zsad.alignment.similarity import anomaly_probability
from zsad.decision.calibration import Calibration
from zsad.decision.thresholds import Thresholds
from zsad.errors import NeedsSet, UsageError
from zsad.images.rotation import rotated_again
from zsad.references.memory_bank import marked_rows, reference_banks
from zsad.types import Backbone, Bank, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap, each_tensor
from zsad.weights.with_weights import WithWeights

__all__ = ["Detector"]


class Detector(WithWeights):
    """A zero- or few-shot anomaly detector: ``prepare`` a category, ``encode`` pictures, ``score`` them.

    A subclass stores its keywords in the constructor and does nothing else there but build its modules; the keywords'
    defaults are the paper's values. In evaluation mode no method writes anything on ``self``.

    Args:
        backbone: the image encoder, with what ``needs`` names.
    """

    recipe: ClassVar[Recipe]  # encoder and input settings of the paper
    needs: ClassVar[tuple[str, ...]] = ()  # attributes that the backbone must have
    cacheable: ClassVar[bool] = True  # False: ``encode`` runs learned weights, so training may not cache its output
    schedule: ClassVar[Schedule] = Schedule()  # of the paper's training; the defaults of ``zsad.train``
    train_mode: ClassVar[tuple[str, ...]] = ()  # own modules that learn in training mode: batch statistics, dropout
    remembers: ClassVar[bool] = False  # True: training begins with ``remember``, one pass over all pictures
    text_temperature: ClassVar[float] = 1.0  # of ``text_score``
    reference_stream: ClassVar[str] = ""  # name of the stream that is compared with references; "": the plain one
    own_references: ClassVar[bool] = False  # normal references by the paper's own rule, not by ``references/fusion.py``
    learned_comparison: ClassVar[bool] = False  # True: that a picture matches its own reference is learned, not built in
    most_references: ClassVar[int | None] = None  # most of them; None: any number
    takes_anomalous: ClassVar[bool] = False  # references may be anomalous, with masks; see ``banks``
    smallest_set: ClassVar[int] = 1  # fewest pictures of a batch whose pictures are compared with each other
    enough_references: int = 1  # from which on the other pictures of a folder add nothing to what they tell
    needs_references: int = 0  # fewest normal references that it scores with; see ``require_references``
    reference_angles: tuple[float, ...] = ()  # degrees by which further copies of each reference are turned; see ``view_rows``
    map_range: tuple[float, float] = (0.0, 1.0)  # of the anomaly map: the ends of the fixed colour scale
    far_score: float | None = None  # a score that normal pictures do not reach, whatever the others score; None: not known
    # a region's defect word is suggested only where its similarity exceeds the second's by this; None: never
    word_margin: float | None = None
    why_not_exported: str = ""  # why no graph of another runtime can hold it, and what to do; "": nothing is known of it

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.trained = not self.learned
        self.weights_sha256, self.header = "", {}

    # ------------------------------------------------------------------ the two-step contract
    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Everything that depends on the category and on no picture, once: text features, sentences, memory banks.

        References (for methods that take them) are in the context's banks and nowhere else, so that one can be taken out later.
        By default there is no more than these banks, and the name is not used.
        """
        return Context(banks=self.banks(references))

    def preprocess(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        """(H, W, 3) uint8 RGB of any size -> (3, H', W'), a row of what ``encode`` takes. By default by ``input_rule``."""
        made: Tensor = self.input_rule()(rgb)
        return made

    def input_rule(self) -> Any:
        """How a picture becomes the network's input, a ``Squash`` or one of its kinds. By default the backbone's."""
        return self.backbone.preprocess

    def input_side(self) -> int:
        """Pixels of the square that a picture is resized to, the largest of them where there are several."""
        return int(getattr(self.input_rule(), "size", self.backbone.image_size))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) preprocessed pictures -> everything that needs no context."""
        raise NotImplementedError

    def encode_for_loss(self, images: Tensor) -> ImageFeatures:
        """As ``encode``, without what ``loss`` does not read; training caches this."""
        return self.encode(images)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Scores and maps of B pictures. Raises ``NeedsSet`` where ``needs_set(context)``."""
        raise NotImplementedError

    def forward(self, images: Tensor, context: Context) -> Prediction:
        """(B, 3, H, W) preprocessed pictures and a context -> ``Prediction``; pure in evaluation mode."""
        return self.score(self.encode(images), context)

    def called(self, target: str) -> str:
        """The object's name that is scored by; an exported model knows one only, and raises ``UsageError`` for others."""
        return target

    def own_levels(self, geometry: Any, value_range: Any) -> tuple[Calibration | None, Thresholds | None]:
        """The calibration and the thresholds that an exported model has inside; (None, None) for all others.

        Args:
            geometry: ``Geometry.describe()`` of the pictures; levels hold for those that are cut as at the export.
            value_range: likewise.
        """
        return None, None

    def needs_set(self, context: Context) -> bool:
        """True where a picture's score depends on the other pictures; then ``score_set`` is the way."""
        return False

    def as_batch(self, context: Context) -> Detector | None:
        """This detector with pictures compared with each other (``needs_set``), where it can do so or not; None: it cannot."""
        return None

    def for_context(self, context: Context) -> Detector:
        """This detector where it scores with one context alone: ``encode`` may leave out what that does not read."""
        return self

    def against_pool(self, context: Context) -> Detector | None:
        """This detector with every picture scored by itself against a pool of others (``pool_banks``); None: it cannot."""
        return None

    def pool_banks(self, features: Sequence[ImageFeatures], context: Context) -> dict[str, Bank]:
        """Banks, beside the context's, by which ``against_pool`` compares pictures with a pool (B = 1 each, as it encodes)."""
        raise UsageError(f"{self.name} cannot compare pictures with a pool of others.")

    def scales_within_set(self, context: Context) -> str:
        """How to avoid that scores are scaled to a set's own extremes, where they are; "": they are not."""
        return ""

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """One prediction per picture (B = 1) of a whole set; ``features`` may live on disk."""
        if self.needs_set(context):
            raise NeedsSet(f"{self.name} compares pictures with each other and does not define how: it needs a score_set.")
        for one in features:
            yield self.score(one, context)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Named parts of the training loss; the trainer sums and logs them."""
        raise UsageError(f"{self.name} has nothing to train.")

    def start_phase(self, phase: int) -> None:
        """Called before the first step of ``schedule.phases[phase]``, also by a resumed run; the loss may change."""

    def remember(self, batches: Iterable[Batch]) -> None:
        """Keeps what the training pictures leave in the method's own buffers, such as labelled features; see ``remembers``."""

    # ------------------------------------------------------------------ what methods share
    @staticmethod
    def text_of(context: Context) -> Tensor:
        """``context.text``, (1 or B, 2, D). Raises ``UsageError`` for a context without, which another method made."""
        if context.text is None:
            raise UsageError("This context has no text features. Make it with prepare() of the detector that scores.")
        return context.text

    def text_score(self, features: ImageFeatures, context: Context) -> Tensor:
        """Probability (B,) of "anomalous" of the image feature, at ``text_temperature``."""
        return anomaly_probability(features.image, self.text_of(context), self.text_temperature)

    def tapped(self, taps: Sequence[int] | None) -> tuple[int, ...]:
        """``taps``, or the recipe's for None, in proportion to the depth. Raises ``UsageError`` for one that is no layer."""
        layers, depth = self.recipe.layers(self.backbone.depth, taps), self.backbone.depth
        if any(not 1 <= layer <= depth for layer in layers):
            raise UsageError(f"taps={layers} of {self.name} must lie in 1..{depth}, the layers of {self.backbone.name}.")
        return layers

    def features_of(self, batch: Batch) -> ImageFeatures:
        """Features of a training batch: those it brings, or of its pictures. Raises ``UsageError`` where they are learned."""
        if isinstance(batch.images, Tensor):
            return self.encode_for_loss(batch.images)
        if not self.cacheable:
            raise UsageError(f"{self.name} learns inside its towers: give it pictures, not features.")
        return batch.images

    def masks_of(self, batch: Batch) -> Tensor:
        """Masks (B, H, W) of a training batch. Raises ``UsageError`` where it has none."""
        if batch.masks is None:
            raise UsageError(f"{self.name} learns from masks; got a batch without. Give a mask per picture (all zero: normal).")
        return batch.masks

    @contextmanager
    def adapting(self, features: ImageFeatures, context: Context) -> Iterator[tuple[ImageFeatures, Context]]:
        """For a loss at test time: gradients are on, whatever mode the caller is in, and the yielded copies can carry them.

        What was learned inside is detached at its end; the score behind it is again in the caller's mode.

        Raises:
            UsageError: in a graph for another runtime, which learns nothing.
        """
        if is_exporting():
            raise UsageError("it learns from every picture by gradient steps while it scores, which no graph can hold")
        with torch.inference_mode(False), torch.enable_grad():
            yield each_tensor(features, torch.clone), each_tensor(context, torch.clone)

    # ------------------------------------------------------------------ references
    def require_references(self, context: Context) -> None:
        """Raises ``UsageError`` where a context has fewer references than ``needs_references``."""
        if torch.compiler.is_compiling():
            return  # the count of values is no constant of a graph; a pass before it is made was checked
        there = max((len(bank.source.unique()) for bank in context.banks.values() if bank.sign > 0), default=0)
        if there < self.needs_references:
            raise UsageError(
                f"{self.name} compares pictures with normal references and needs {self.needs_references} or more; got {there}. "
                "Give some: references=, --references good/."
            )

    def reference_taps(self, features: ImageFeatures) -> Mapping[int, Tap]:
        """The layers whose patches are compared with references: those of ``reference_stream``."""
        return features.streams[self.reference_stream] if self.reference_stream else features.taps

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """What B pictures leave in the memory banks as references: (B, M, C) by layer or scale. By default ``reference_taps``.

        A key such as "novelty.3" has a row per row of "3".
        """
        return {str(layer): tap.patches for layer, tap in self.reference_taps(features).items()}

    def turned(self, images: Tensor, degrees: float) -> Tensor:
        """Preprocessed pictures (B, 3, H, W), turned at the model's size."""
        return rotated_again(images, self.backbone.preprocess, degrees)

    def view_rows(self, features: ImageFeatures, view: int = 0) -> Mapping[str, Tensor]:
        """``reference_rows`` of views of references: 0 the pictures, n their copies at ``reference_angles[n - 1]``."""
        return self.reference_rows(features)

    def marked_rows(self, masks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Which patches masks (K, H, W) of anomalous references choose, 1 = defect: (K, h * w) bool, at least one of each."""
        return marked_rows(masks, grid)

    def banks(self, references: References | None) -> dict[str, Bank]:
        """Memory banks of reference images, {} where there are none; see ``reference_banks``. Raises ``UsageError``."""
        if references is None:
            return {}
        given = references.anomalous is not None or any(bank.sign < 0 for bank in references.banks.values())
        if given and not self.takes_anomalous:
            raise UsageError(f"{self.name} takes normal references only; leave the anomalous ones out.")
        return reference_banks(self, references)
