"""The engine room of the inspector: pictures are read in threads beside the model, and answers come in order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.detector import Detector
from zsad.errors import ImageError, UsageError
from zsad.images import ImageRef, load_image
from zsad.ops.maps import upsample
from zsad.results import shortest
from zsad.types import Context, ImageFeatures, Prediction

__all__ = ["PRECISIONS", "Scored", "Scorer", "ahead", "original_size"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEPT_PIXELS = 32_000_000  # of decoded pictures that wait for their batch, where they are kept: 100 MB
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Scored:
    """What the model says of one picture, before any threshold and at model size; ``error`` is set where it says nothing."""

    name: str
    path: Path | None
    size: tuple[int, int] | None = None  # (H, W) of the picture
    score: float | None = None
    model_map: NDArray[np.float32] | None = None  # (h, w)
    word_maps: NDArray[np.float32] | None = None  # (words, h', w')
    notes: tuple[str, ...] = ()
    error: str | None = None
    image: NDArray[np.uint8] | None = None  # (H, W, 3), where it was asked for


Read = tuple[Scored, Tensor | None]


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

    def __call__(self, refs: Iterable[ImageRef], *, keep_images: bool = False) -> Iterator[Scored]:
        """The model's answers in order. Batches are cut by position, so that an unreadable picture moves no other."""

        def read(ref: ImageRef) -> Read:
            return self._read(ref, keep_images)

        waiting = self.workers if keep_images else 2 * self.batch_size
        for batch in self._batches(ahead(refs, read, self.workers, waiting)):
            yield from self._answer(batch)

    def _batches(self, loaded: Iterator[Read]) -> Iterator[list[Read]]:
        """Lists of ``batch_size``; fewer only where large pictures are kept, and at the end."""
        while batch := list(islice(loaded, 1)):
            kept = 0
            while len(batch) < self.batch_size and (kept := kept + _pixels(batch[-1])) < KEPT_PIXELS:
                more = next(loaded, None)
                if more is None:
                    break
                batch.append(more)
            yield batch

    def _read(self, ref: ImageRef, keep: bool) -> Read:
        """Decodes and preprocesses one picture; what is wrong with it is said in ``error``."""
        try:
            picture = load_image(ref, value_range=self.value_range)
        except ImageError as error:
            return Scored(ref.name, ref.path, error=str(error)), None
        height, width = picture.rgb.shape[:2]
        tensor = self.detector.backbone.preprocess(picture.rgb)
        image = picture.rgb if keep else None
        return Scored(ref.name, ref.path, (height, width), notes=tuple(picture.notes), image=image), tensor

    def _answer(self, batch: list[Read]) -> Iterator[Scored]:
        tensors = [tensor for _, tensor in batch if tensor is not None]
        prediction = self._predict(torch.stack(tensors)) if tensors else None
        row = 0
        for scored, tensor in batch:
            if tensor is None or prediction is None:
                yield scored
                continue
            yield _answered(scored, prediction, row)
            row += 1

    def _predict(self, images: Tensor) -> Prediction:
        try:
            with torch.inference_mode():
                found = self.detector.score(self._encode(images), self.context)
        except torch.cuda.OutOfMemoryError as error:
            raise UsageError(
                f"{self.device} has not enough memory for {len(images)} pictures at once. Choose a smaller batch size."
            ) from error
        words = None if found.word_maps is None else found.word_maps.float().cpu()
        return Prediction(found.pred_score.float().cpu(), found.anomaly_map.float().cpu(), words)

    def _encode(self, images: Tensor) -> ImageFeatures:
        """The encoder in the run's precision; scores and maps are computed from float32 features in any case."""
        kind, dtype = self.device.type, PRECISIONS[self.precision]
        with torch.autocast(kind, dtype, enabled=dtype is not torch.float32):
            features = self.detector.encode(images.to(self.device))
        return features if dtype is torch.float32 else features.to(torch.float32)


def _pixels(read: Read) -> int:
    image = read[0].image
    return 0 if image is None else image.shape[0] * image.shape[1]


def _answered(scored: Scored, prediction: Prediction, row: int) -> Scored:
    score = shortest(prediction.pred_score[row].numpy())
    if not math.isfinite(score) or not bool(torch.isfinite(prediction.anomaly_map[row]).all()):
        return replace(scored, error="the method gave a score or a map that is no finite number", image=None)
    words = None if prediction.word_maps is None else prediction.word_maps[row].numpy().copy()
    return replace(scored, score=score, model_map=prediction.anomaly_map[row].numpy().copy(), word_maps=words)


def original_size(model_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) -> (H, W), bilinear with pixel centres aligned."""
    small = torch.from_numpy(np.ascontiguousarray(model_map, dtype=np.float32))
    full: NDArray[np.float32] = upsample(small[None], size)[0].numpy()
    return full


def ahead(items: Iterable[Item], work: Callable[[Item], Made], workers: int, waiting: int) -> Iterator[Made]:
    """``map`` in threads: in order, with at most ``waiting`` items begun and not yet taken."""
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[Future[Made]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > waiting:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
