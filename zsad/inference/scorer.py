"""Scores pictures: they are read in threads beside the model, and the scores come in order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.common.precision import inference
from zsad.common.threads import ahead
from zsad.detector import Detector
from zsad.errors import ImageError, UsageError
from zsad.images.content import blank_notes
from zsad.images.reading import ImageRef, digest_of, load_image
from zsad.images.roi import Window
from zsad.images.rotation import rotated
from zsad.images.stitching import Canvas
from zsad.images.tiling import Geometry, Place, piece
from zsad.inference.result import shortest
from zsad.types import Context, ImageFeatures, Prediction

__all__ = ["PRECISIONS", "Opened", "Scored", "Scorer", "on_cpu"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEPT_PIXELS = 32_000_000  # of decoded pictures that wait for their batch, where they are kept: 100 MB


@dataclass(frozen=True, eq=False)
class Scored:
    """Score and maps of one picture, before any threshold and at model size; ``error`` is set where there are none.

    The maps cover the region of interest. Maps of tiles are joined at the model's resolution; see ``Canvas``.
    """

    name: str
    path: Path | None
    size: tuple[int, int] | None = None  # (H, W) of the picture
    score: float | None = None
    model_map: NDArray[np.float32] | None = None  # (h, w)
    word_maps: NDArray[np.float32] | None = None  # (words, h', w')
    notes: tuple[str, ...] = ()
    error: str | None = None
    image: NDArray[np.uint8] | None = None  # (H, W, 3), where it was asked for
    digest: str = ""  # of the decoded pixels; "" where it was scored from a record


@dataclass(frozen=True, eq=False)
class Read:
    """A picture on its way to the model; without a view and pieces where ``scored`` has an error."""

    scored: Scored
    view: Window | None = None
    places: Sequence[Place] = ()
    tensors: Iterable[Tensor] = ()  # (3, S, S) per place


@dataclass(eq=False)
class Opened:
    """A picture whose pieces go through the model one after the other."""

    scored: Scored
    left: int  # pieces
    maps: Canvas
    words: Canvas | None = None

    def add(self, prediction: Prediction, row: int, place: Place) -> None:
        """Takes up the prediction for one piece."""
        self.left -= 1
        score = shortest(prediction.pred_score[row].numpy())
        if not math.isfinite(score) or not bool(torch.isfinite(prediction.anomaly_map[row]).all()):
            self.scored = replace(self.scored, error="the method gave a score or a map that is no finite number", image=None)
        if self.scored.error:
            return
        before = self.scored.score
        notes = tuple(dict.fromkeys(self.scored.notes + prediction.notes))  # each once, however many pieces have it
        self.scored = replace(self.scored, score=score if before is None else max(before, score), notes=notes)
        self.maps.add(prediction.anomaly_map[row].numpy(), place)
        if prediction.word_maps is not None:
            self.words = self.words or Canvas(self.maps.view)
            self.words.add(prediction.word_maps[row].numpy(), place)

    def answer(self) -> Scored:
        """The picture's score, the largest of its pieces', and its maps."""
        if self.scored.error:
            return replace(self.scored, score=None)
        words = None if self.words is None else self.words.done()
        return replace(self.scored, model_map=self.maps.done(), word_maps=words)


@dataclass(frozen=True, eq=False)
class Scorer:
    """A prepared detector and how pictures reach it."""

    detector: Detector
    context: Context
    device: torch.device
    batch_size: int
    workers: int
    value_range: tuple[float, float] | None
    precision: str = "fp32"  # of the encoder: a key of PRECISIONS
    geometry: Geometry = field(default_factory=Geometry)
    angles: tuple[float, ...] = ()  # degrees by which further copies of every piece are turned

    def __call__(self, refs: Iterable[ImageRef], *, keep_images: bool = False) -> Iterator[Scored]:
        """Scores and maps in order.

        Pictures go in groups of ``batch_size``, cut by position, so that an unreadable one moves no other; their pieces pass
        the model ``batch_size`` at a time, so that a huge picture needs no more memory.
        """
        for group in self._groups(refs, keep_images):
            yield from self._answers(group)

    def encoded(
        self, refs: Iterable[ImageRef], *, keep_images: bool = False
    ) -> Iterator[tuple[Read, int, ImageFeatures | None]]:
        """Features (B = 1) of every piece in order: (picture, index of the piece, features).

        A picture that cannot be read comes once, as (picture, -1, None).
        """
        for group in self._groups(refs, keep_images):
            waiting: list[tuple[Read, int, Tensor | None]] = []
            full: list[torch.Size] = []
            for read in group:
                if read.view is None:
                    waiting.append((read, -1, None))
                for index, tensor in enumerate(read.tensors):
                    if len(full) == self.batch_size or tensor.shape not in (full[-1:] or [tensor.shape]):
                        yield from self._encoded(waiting)
                        waiting, full = [], []
                    waiting.append((read, index, tensor))
                    full.append(tensor.shape)
            yield from self._encoded(waiting)

    def _encoded(self, waiting: list[tuple[Read, int, Tensor | None]]) -> Iterator[tuple[Read, int, ImageFeatures | None]]:
        tensors = [tensor for _, _, tensor in waiting if tensor is not None]
        with inference(self.device):
            features = self.encode(torch.stack(tensors)) if tensors else None
        row = 0
        for read, index, tensor in waiting:
            yield read, index, None if tensor is None or features is None else features[row : row + 1]
            row += tensor is not None

    def _groups(self, refs: Iterable[ImageRef], keep: bool) -> Iterator[Iterator[Read]]:
        def read(ref: ImageRef) -> Read:
            return self._read(ref, keep)

        whole = keep or self.geometry.tile is not None  # decoded pictures wait, not only tensors
        loaded = ahead(refs, read, self.workers, self.workers if whole else 2 * self.batch_size)
        for first in loaded:
            yield self._group(first, loaded)

    def _group(self, first: Read, loaded: Iterator[Read]) -> Iterator[Read]:
        """``batch_size`` pictures; fewer only where large pictures are kept, and at the end."""
        yield first
        kept = _pixels(first)
        for _ in range(self.batch_size - 1):
            if kept >= KEPT_PIXELS or (more := next(loaded, None)) is None:
                return
            kept += _pixels(more)
            yield more

    def _read(self, ref: ImageRef, keep: bool) -> Read:
        """Decodes and cuts one picture; ``error`` is set where that fails."""
        try:
            picture = load_image(ref, value_range=self.value_range)
            size = (picture.rgb.shape[0], picture.rgb.shape[1])
            view, places = self.geometry.window(size), self.geometry.places(size)
        except ImageError as error:
            return Read(Scored(ref.name, ref.path, error=str(error)))
        crop, side = view.crop(picture.rgb), self.detector.input_side()

        def tensor(view_of: tuple[float, Place]) -> Tensor:
            cut = piece(crop, view.corner, view_of[1], side)
            return self.detector.preprocess(rotated(cut, view_of[0]))

        notes, kept = (*picture.notes, *blank_notes(picture.rgb)), picture.rgb if keep else None
        scored = Scored(ref.name, ref.path, size, notes=notes, image=kept, digest=digest_of(picture.rgb))
        views = [(angle, place) for angle in (0.0, *self.angles) for place in places]
        if len(views) == 1:  # here and now, so that the pixels need not wait
            return Read(scored, view, places, [tensor(views[0])])
        return Read(scored, view, [place for _, place in views], ahead(views, tensor, self.workers, self.batch_size))

    def _answers(self, group: Iterable[Read]) -> Iterator[Scored]:
        """Pieces through the model as they come; a picture is answered once all of its pieces and its predecessors are."""
        waiting: deque[Scored | Opened] = deque()
        batch: list[tuple[Tensor, Opened, Place]] = []
        for read in group:
            if read.view is None:
                waiting.append(read.scored)
                continue
            waiting.append(picture := Opened(read.scored, len(read.places), Canvas(read.view)))
            for place, tensor in zip(read.places, read.tensors, strict=True):
                if len(batch) == self.batch_size or (batch and tensor.shape != batch[-1][0].shape):  # only like pictures stack
                    self._run(batch)
                    batch = []
                    yield from _finished(waiting)
                batch.append((tensor, picture, place))
        if batch:
            self._run(batch)
        yield from _finished(waiting)

    def _run(self, batch: list[tuple[Tensor, Opened, Place]]) -> None:
        prediction = self._predict(torch.stack([tensor for tensor, _, _ in batch]))
        for row, (_, picture, place) in enumerate(batch):
            picture.add(prediction, row, place)

    def _predict(self, images: Tensor) -> Prediction:
        try:
            with inference(self.device):
                return on_cpu(self.detector.score(self.encode(images), self.context))
        except torch.cuda.OutOfMemoryError as error:
            raise UsageError(
                f"{self.device} has not enough memory for {len(images)} pictures at once. Choose a smaller batch size."
            ) from error

    def encode(self, images: Tensor) -> ImageFeatures:
        """The encoder in the run's precision; scores and maps are computed from float32 features in any case."""
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32):
            features = self.detector.encode(images.to(self.device))
        return features if dtype is torch.float32 else features.to(torch.float32)


def on_cpu(found: Prediction) -> Prediction:
    """The prediction in float32 on the CPU."""
    words = None if found.word_maps is None else found.word_maps.float().cpu()
    return Prediction(found.pred_score.float().cpu(), found.anomaly_map.float().cpu(), words, found.notes)


def _pixels(read: Read) -> int:
    return 0 if (image := read.scored.image) is None else image.shape[0] * image.shape[1]


def _finished(waiting: deque[Scored | Opened]) -> Iterator[Scored]:
    while waiting and (isinstance(waiting[0], Scored) or not waiting[0].left):
        one = waiting.popleft()
        yield one if isinstance(one, Scored) else one.answer()
