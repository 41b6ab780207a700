"""From a picture's score and map at model size to its result: verdict, map at original size, regions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.alignment.maps import upsample
from zsad.decision.calibration import Calibration
from zsad.decision.thresholds import REVIEW, Thresholds
from zsad.images.content import is_blank
from zsad.inference.result import Region, Result, find_regions, shortest
from zsad.inference.scorer import Scored, Scorer

__all__ = ["original_size", "result_of", "scores_and_peaks", "verdict_of"]


def result_of(scored: Scored, scorer: Scorer, thresholds: Thresholds, calibration: Calibration | None = None) -> Result:
    """The result of a scored picture.

    Args:
        scored: the picture.
        scorer: what scored it; its context has the words and sentences, its geometry the region of interest.
        thresholds: levels for picture and places.
        calibration: gives p-values.
    """
    detector, context, geometry = scorer.detector, scorer.context, scorer.geometry
    known = Result(
        name=scored.name,
        path=scored.path,
        method=detector.name,
        error=scored.error,
        notes=scored.notes,
        image=scored.image,
        map_range=detector.map_range,
    )
    if scored.score is None or scored.model_map is None or scored.size is None:
        return known
    view = geometry.window(scored.size)
    whole = original_size(scored.model_map, view.shape)
    regions: tuple[Region, ...] = ()
    mask = None
    if thresholds.pixel is not None:
        words, margin = context.words, detector.word_margin
        confined, seen = view.hide(whole, -math.inf), math.prod(geometry.tile_in(view))
        places, mask = find_regions(confined, thresholds.pixel, words, scored.word_maps, margin, seen)
        regions, mask = tuple(one.moved(*view.corner) for one in places), view.spread(mask, False)
    return replace(
        known,
        pred_score=scored.score,
        p_value=None if calibration is None else calibration.p_value(scored.score),
        pred_label=verdict_of(scored, thresholds),
        threshold=thresholds.anomalous,
        threshold_source=thresholds.source,
        anomaly_map=view.spread(view.hide(whole, math.nan), math.nan),
        roi_mask=view.roi_mask(),
        pred_mask=mask,
        regions=regions,
        prompts=context.sentences,
    )


def verdict_of(scored: Scored, thresholds: Thresholds) -> str | None:
    """The verdict on a scored picture; a frame without content is for review, whatever its score and the thresholds."""
    if scored.score is not None and is_blank(scored.notes):
        return REVIEW
    return thresholds.label(scored.score)


def original_size(model_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) -> (H, W), bilinear with pixel centres aligned."""
    small = torch.from_numpy(np.ascontiguousarray(model_map, dtype=np.float32))
    full: NDArray[np.float32] = upsample(small[None], size)[0].numpy()
    return full


def scores_and_peaks(found: Iterable[Scored]) -> tuple[list[float], list[float]]:
    """Score and largest map value of every picture that has them, but for frames without content."""
    seen = (one for one in found if not is_blank(one.notes))
    good = [(one.score, shortest(one.model_map.max())) for one in seen if one.score is not None and one.model_map is not None]
    return [score for score, _ in good], [peak for _, peak in good]
