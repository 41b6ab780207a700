"""From what the model said of a picture to what a person is told: verdict, map at original size, regions."""

from __future__ import annotations

import math
from dataclasses import replace

from zsad.decision.calibration import Calibration
from zsad.decision.thresholds import Thresholds
from zsad.inference.result import Region, Result, find_regions
from zsad.inference.scorer import Scored, Scorer, original_size

__all__ = ["result_of"]


def result_of(scored: Scored, scorer: Scorer, thresholds: Thresholds, calibration: Calibration | None = None) -> Result:
    """The result of a scored picture.

    Args:
        scored: what the model said.
        scorer: who said it; its context has the words and sentences, its geometry says which part was judged.
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
    judged = original_size(scored.model_map, view.shape)
    regions: tuple[Region, ...] = ()
    mask = None
    if thresholds.pixel is not None:
        words, margin = context.words, detector.word_margin
        confined, seen = view.hide(judged, -math.inf), math.prod(geometry.tile_in(view))
        places, mask = find_regions(confined, thresholds.pixel, words, scored.word_maps, margin, seen)
        regions, mask = tuple(one.moved(*view.corner) for one in places), view.spread(mask, False)
    low = detector.map_range[0]
    return replace(
        known,
        pred_score=scored.score,
        p_value=None if calibration is None else calibration.p_value(scored.score),
        pred_label=thresholds.label(scored.score),
        threshold=thresholds.anomalous,
        threshold_source=thresholds.source,
        anomaly_map=view.spread(view.hide(judged, low), low),
        judged=view.roi_mask(),
        pred_mask=mask,
        regions=regions,
        prompts=context.sentences,
    )
