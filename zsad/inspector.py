"""``Inspector``: from any source of pictures to lazy results at original size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zsad.calibration import Thresholds, fixed
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.geometry import read_geometry
from zsad.images import ImageRef, list_images
from zsad.intensity import check_range
from zsad.naming import printable
from zsad.promises import Calibration, settle
from zsad.registry import create
from zsad.results import Region, Result, find_regions
from zsad.scoring import PRECISIONS, Scored, Scorer, original_size

__all__ = ["Inspector", "check_target", "pick_device", "pick_precision"]

TARGET_WORDS, TARGET_CHARACTERS = 40, 300  # CLIP reads 77 tokens, and a prompt's own words take up to 20 of them
CPU_BATCH, ACCELERATOR_BATCH = 8, 16


class Inspector:
    """A method, a category and the way to a verdict, ready for any number of pictures.

    Args:
        method: a name that ``create`` takes, or a built ``Detector``.
        target: the object's name, as a person would say it.
        backbone: as in ``create``; None takes the method's own.
        checkpoint: path of learned weights.
        references: normal pictures, for methods that take them; none does yet.
        threshold: raw score from which on a picture is anomalous; None gives no labels.
        review_at: raw score from which on a picture is for review.
        pixel_threshold: map value from which on a place belongs to a region; None gives no regions.
        calibration: a ``Calibration`` of this judge or its file; gives p-values, and all levels that are not given.
        max_false_alarms: share of normal pictures that may be called anomalous, instead of the calibration's.
        review_false_alarms: share of normal pictures that may be called anomalous or review, likewise.
        device: "auto" (cuda, mps, xpu, else cpu) or a torch device.
        precision: of the encoder: "fp32", "bf16", or "fp16" on devices that have it; scores and maps are float32 in any case.
        batch_size: pictures per pass; None takes 8 on a CPU and 16 elsewhere.
        workers: threads that read pictures while the model runs.
        value_range: (low, high) that become black and white in pictures of more than 8 bits; None takes the stated rule.
        tile: cuts pictures into tiles of this side, or (width, height), in their own pixels; the score is the largest tile's.
        overlap: least share of a tile that neighbours have in common, 0 to 0.9; None takes 0.25.
        roi: the part that is judged: (x0, y0, x1, y1), corners (x, y) of a polygon, a (H, W) mask, or a text as for
            ``--roi``. A picture that it does not fit becomes an error.
        keep_aspect: pads with mirrored borders to a square instead of squashing.
        **arguments: the method's constructor keywords.

    Raises:
        UsageError: an argument that cannot be carried out; NotTrained, UnknownName and WeightsError as in ``create``.
    """

    def __init__(
        self,
        method: str | Detector = "compact",
        target: str = "object",
        *,
        backbone: Any = None,
        checkpoint: str | Path | None = None,
        references: Any = None,
        threshold: float | None = None,
        review_at: float | None = None,
        pixel_threshold: float | None = None,
        calibration: Calibration | str | Path | None = None,
        max_false_alarms: float | None = None,
        review_false_alarms: float | None = None,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        batch_size: int | None = None,
        workers: int = 2,
        value_range: tuple[float, float] | None = None,
        tile: Any = None,
        overlap: float | None = None,
        roi: Any = None,
        keep_aspect: bool = False,
        **arguments: Any,
    ) -> None:
        if references is not None:
            raise UsageError("References were given, and no method of this version takes them (none yet). Leave them out.")
        self.target = check_target(target)
        self.calibration = Calibration.load(calibration) if isinstance(calibration, (str, Path)) else calibration
        given = fixed(threshold, review_at, pixel_threshold)
        self.thresholds = settle(given, self.calibration, max_false_alarms, review_false_alarms)
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.batch_size = _at_least_one("batch_size", self._default_batch() if batch_size is None else batch_size)
        self.workers = _at_least_one("workers", workers)
        self.value_range = check_range(value_range)
        self.geometry = read_geometry(tile, overlap, roi, keep_aspect)
        self.detector = _built(method, backbone, checkpoint, arguments).to(self.device).eval()
        self.detector.require_trained()
        with torch.inference_mode():
            self.context = self.detector.prepare(self.target).to(self.device)
        if self.detector.needs_set(self.context):
            raise UsageError(f"{self.detector.name} judges pictures against each other, which the inspector cannot do yet.")
        if self.calibration is not None:
            self.calibration.check(self.describe())

    def _default_batch(self) -> int:
        return CPU_BATCH if self.device.type == "cpu" else ACCELERATOR_BATCH

    def __call__(self, source: Any) -> Iterator[Result]:
        """Results in the order of the source, one per picture, made when asked for; memory does not grow.

        Args:
            source: whatever ``list_images`` takes: a path, a folder, PIL pictures, arrays, or an iterable of them.
        """
        for scored in self.scored(list_images(source), keep_images=True):
            yield self.result(scored, self.thresholds)

    def scored(self, refs: Iterable[ImageRef], *, keep_images: bool = False) -> Iterator[Scored]:
        """What the model says of pictures, before any threshold and at model size; see ``Scorer``."""
        how = (self.batch_size, self.workers, self.value_range, self.precision, self.geometry)
        return Scorer(self.detector, self.context, self.device, *how)(refs, keep_images=keep_images)

    def result(self, scored: Scored, thresholds: Thresholds) -> Result:
        """Verdict, map at original size and regions of a scored picture."""
        known = Result(
            name=scored.name,
            path=scored.path,
            method=self.detector.name,
            error=scored.error,
            notes=scored.notes,
            image=scored.image,
            map_range=self.detector.map_range,
        )
        if scored.score is None or scored.model_map is None or scored.size is None:
            return known
        view = self.geometry.window(scored.size)
        judged = original_size(scored.model_map, view.shape)
        regions: tuple[Region, ...] = ()
        mask = None
        if thresholds.pixel is not None:
            words, margin = self.context.words, self.detector.word_margin
            confined, seen = view.hide(judged, -math.inf), math.prod(self.geometry.tile_in(view))
            places, mask = find_regions(confined, thresholds.pixel, words, scored.word_maps, margin, seen)
            regions, mask = tuple(one.moved(*view.corner) for one in places), view.spread(mask, False)
        low = self.detector.map_range[0]
        return replace(
            known,
            pred_score=scored.score,
            p_value=None if self.calibration is None else self.calibration.p_value(scored.score),
            pred_label=thresholds.label(scored.score),
            threshold=thresholds.anomalous,
            threshold_source=thresholds.source,
            anomaly_map=view.spread(view.hide(judged, low), low),
            judged=view.judged(),
            pred_mask=mask,
            regions=regions,
            prompts=self.context.sentences,
        )

    def describe(self) -> dict[str, Any]:
        """What judges: everything that a score depends on, as a JSON object."""
        detector, backbone = self.detector, self.detector.backbone
        return {
            "method": detector.name,
            "target": self.target,
            "arguments": {key: _plain(value) for key, value in detector.arguments().items()},
            "backbone": backbone.name,
            "backbone_sha256": backbone.weights_sha256,
            "weights_sha256": detector.weights_sha256,
            "image_size": backbone.image_size,
            "activation": backbone.activation,
            "position_embedding": backbone.position_embedding,
            "precision": self.precision,
            "value_range": None if self.value_range is None else list(self.value_range),
            "geometry": self.geometry.describe(),
            "map_range": list(detector.map_range),
            "words": list(self.context.words),
            "sentences": {kind: list(lines) for kind, lines in self.context.sentences.items()},
        }


def check_target(target: str) -> str:
    """The target without blanks at its ends.

    Raises:
        UsageError: it is empty, or longer than a text tower reads.
    """
    if not isinstance(target, str):
        raise UsageError(f"The target is {target!r}. Give the object's name, as a person would say it: 'metal nut'.")
    target = " ".join(target.split())
    if not target:
        raise UsageError("The target is empty. Give the object's name, as a person would say it: 'metal nut'.")
    if printable(target) != target:
        raise UsageError(f"The target {printable(target)!r} has characters that do not print. Give a plain name: 'metal nut'.")
    if len(target) > TARGET_CHARACTERS or len(target.split()) > TARGET_WORDS:
        raise UsageError(
            f"The target has {len(target.split())} words and {len(target)} characters; a text tower reads 77 tokens. "
            f"Give a name of at most {TARGET_WORDS} words and {TARGET_CHARACTERS} characters, such as 'metal nut'."
        )
    return target


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" takes cuda, mps, xpu, else cpu.

    Raises:
        UsageError: no such device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["xpu"] = hasattr(torch, "xpu") and torch.xpu.is_available()
    if device == "auto":
        return torch.device(next((kind for kind, here in there.items() if here), "cpu"))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"No device is called {device!r}. Use auto, cpu, cuda, cuda:1, mps or xpu.") from error
    if not there.get(chosen.type, chosen.type == "cpu"):
        raise UsageError(f"The device {str(device)!r} is not available here. Use --device auto, or cpu.")
    return chosen


def pick_precision(precision: str, device: torch.device) -> str:
    """The precision, if the device has it.

    Raises:
        UsageError: no such precision, or float16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"No precision is called {precision!r}. Use {', '.join(PRECISIONS)}.")
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is for cuda, mps and xpu; on a CPU it is slower and less exact than bf16. Use bf16, or fp32.")
    return precision


def _built(method: str | Detector, backbone: Any, checkpoint: str | Path | None, arguments: dict[str, Any]) -> Detector:
    if isinstance(method, str):
        built: Detector = create(method, backbone=backbone, checkpoint=checkpoint, **arguments)
        return built
    given = [name for name, value in (("backbone", backbone), ("checkpoint", checkpoint)) if value is not None]
    if given or arguments:
        raise UsageError(
            f"A built {method.name} was given together with {', '.join([*given, *arguments])}. Pass them to create(), "
            "or pass the method by name."
        )
    return method


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise UsageError(f"{name} is {value}; it has to be at least 1.")
    return value


def _plain(value: Any) -> Any:
    """JSON's view of a constructor keyword."""
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
