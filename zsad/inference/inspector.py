"""``Inspector``: from any source of pictures to lazy results at original size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from zsad.common.arguments import checked
from zsad.decision.calibration import Calibration
from zsad.decision.thresholds import Thresholds
from zsad.detector import Detector
from zsad.images.in_memory import is_in_memory
from zsad.images.intensity import check_range
from zsad.images.reading import ImageRef, list_images
from zsad.images.tiling import read_geometry
from zsad.inference.encoded import Encoded, answers, encode_pictures
from zsad.inference.explaining import Explains
from zsad.inference.few_shot import WithReferences, open_references
from zsad.inference.reference_set import ReferenceSet
from zsad.inference.result import Result
from zsad.inference.scorer import Scored, Scorer
from zsad.inference.settings import (
    AUTO_FEWEST,
    at_least_one,
    batch_mode,
    build_method,
    check_target,
    compared,
    default_batch,
    describe_encoder,
    known_levels,
    pick_device,
    pick_precision,
    share_of_rows,
)
from zsad.inference.verdict import result_of
from zsad.references.corrections import Mark
from zsad.types import Context

__all__ = ["Inspector"]


class Inspector(WithReferences, Explains):
    """A detector with a target, references and thresholds, ready for any number of pictures.

    Args:
        method: a name that ``create`` takes, or a built ``Detector``.
        target: the object's name, as a person would say it.
        backbone: as in ``create``; None takes the method's own.
        checkpoint: path of learned weights.
        references: normal pictures of the category: whatever ``list_images`` takes, a folder that ``save_references`` wrote,
            or a ``ReferenceSet``.
        anomalous: anomalous pictures of the category, for methods that learn from examples of defects.
        anomalous_masks: where the defects in them are; see ``add_anomalous``.
        coreset: share of the references' rows that are kept, in (0, 1]; for very many references.
        threshold: raw score from which on a picture is anomalous; None gives no labels.
        review_at: raw score from which on a picture is for review.
        pixel_threshold: map value from which on a place belongs to a region; None gives no regions.
        calibration: a ``Calibration`` of this detector or its file; gives p-values, and all levels that are not given.
        max_false_alarms: share of normal pictures that may be called anomalous, instead of the calibration's.
        review_false_alarms: share of normal pictures that may be called anomalous or review, likewise.
        device: "auto" (cuda, mps, xpu, else cpu) or a torch device.
        precision: of the encoder: "fp32", "bf16", or "fp16" on devices that have it; scores and maps are float32 in any case.
        batch_size: pictures per pass; None takes 8 on a CPU and 16 elsewhere.
        workers: threads that read pictures while the model runs.
        value_range: (low, high) that become black and white in pictures of more than 8 bits; None takes the stated rule.
        tile: cuts pictures into tiles of this side, or (width, height), in their own pixels; the score is the largest tile's.
        overlap: least share of a tile that neighbours have in common, 0 to 0.9; None takes 0.25.
        roi: the part that is scored: (x0, y0, x1, y1), corners (x, y) of a polygon, a (H, W) mask, or a text as for
            ``--roi``. A picture that it does not fit becomes an error.
        keep_aspect: pads with mirrored borders to a square instead of squashing.
        batch: whether pictures of one folder, list or ``Encoded`` are compared with each other: "on" (True), "off" (False), or
            "auto", which does so where it helps; see ``over``.
        **arguments: the method's constructor keywords.

    Raises:
        UsageError: an argument that cannot be carried out; NotTrained, UnknownName and WeightsError as in ``create``.
    """

    @checked
    def __init__(
        self,
        method: str | Detector = "compact",
        target: str = "object",
        *,
        backbone: Any = None,
        checkpoint: str | Path | None = None,
        references: Any = None,
        anomalous: Any = None,
        anomalous_masks: Any = None,
        coreset: float = 1.0,
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
        batch: bool | str = "auto",
        **arguments: Any,
    ) -> None:
        called, self.device = check_target(target), pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.batch_size = at_least_one("batch_size", default_batch(self.device) if batch_size is None else batch_size)
        self.workers = at_least_one("workers", workers)
        self.value_range = check_range(value_range)
        self.geometry = read_geometry(tile, overlap, roi, keep_aspect)
        self.coreset, self.batch = share_of_rows(coreset), batch_mode(batch)
        self.detector = build_method(method, backbone, checkpoint, arguments).to(self.device).eval()
        self.detector.require_trained()
        self.target = self.detector.called(called)
        inside = self.detector.own_levels(self.geometry.describe(), self.value_range)
        given = {"threshold": threshold, "review_at": review_at, "pixel_threshold": pixel_threshold}
        rates = max_false_alarms, review_false_alarms
        self.calibration, self.thresholds = known_levels(inside, calibration, *rates, **given)
        encoder, scorer = self._encoder(), self._scorer(Context())
        self.references = ReferenceSet(encoder) if references is None else open_references(references, scorer, encoder)
        self.context = self._prepared()
        if anomalous is not None or anomalous_masks is not None:
            self.add_anomalous(anomalous, anomalous_masks)
        if self.batch == "on":
            self.detector = compared(self.detector, self.context)
        if self.calibration is not None:
            self.calibration.check(self.describe())

    def __call__(self, source: Any, *, channels_first: bool = False) -> Iterator[Result]:
        """Results in the order of the source, one per picture, made when asked for; memory does not grow.

        Args:
            source: whatever ``list_images`` takes: a path, a folder, PIL pictures, arrays, or an iterable of them. A path, a
                list and a stack are a set, see ``over``; of any other iterable each picture is scored by itself, as it comes.
            channels_first: as of ``list_images``.
        """
        refs: Iterable[ImageRef] = list_images(source, channels_first=channels_first)
        if isinstance(source, (str, Path, list, tuple)) or is_in_memory(source):
            refs = list(refs)
        own = self.over(len(refs)) if isinstance(refs, list) else self
        for scored in own.scored(refs, keep_images=True):
            yield own.result(scored, self.thresholds)

    def over(self, count: int) -> Inspector:
        """The inspector for a set of so many pictures: this one, or with ``batch="auto"`` one that compares them.

        Auto compares, where the method can, ``AUTO_FEWEST`` pictures or more where nothing better is known: no calibration and
        no threshold, which hold for single pictures, and fewer references than the detector's ``enough_references``.
        """
        enough = len(self.references) >= self.detector.enough_references or self.calibration is not None
        if self.batch != "auto" or enough or self.thresholds.anomalous is not None or self.needs_set or count < AUTO_FEWEST:
            return self
        return self._with(detector=self.detector.as_batch(self.context) or self.detector)

    def alone(self) -> Inspector:
        """This inspector with every picture scored by itself, unless the method always compares them."""
        return self._with(batch="off")

    def with_detector(self, detector: Detector, context: Context | None = None) -> Inspector:
        """This inspector with another form of its detector, and another context."""
        return self._with(detector=detector, context=context or self.context)

    def scorer(self) -> Scorer:
        """How pictures reach the detector."""
        return self._scoring(self.context)

    def scored(self, refs: Iterable[ImageRef], *, keep_images: bool = False, folder: Path | None = None) -> Iterator[Scored]:
        """Scores and maps of pictures, before any threshold and at model size; see ``Scorer``.

        Where the method compares pictures with each other, features go to disk (``folder``, or a temporary one) and the
        scores come after the last picture. ``refs`` are from ``list_images``; ``keep_images`` keeps each picture in its answer.
        """
        scorer = self._scoring(self.context)
        if self.needs_set:
            found = answers(scorer, encode_pictures(scorer, refs, folder), keep_images=keep_images)
        else:
            found = scorer(refs, keep_images=keep_images)
        yield from self._with_notes(found)

    @property
    def needs_set(self) -> bool:
        """True where a picture's score depends on the other pictures of the source."""
        return self.detector.needs_set(self.context)

    def encode(self, source: Any, *, channels_first: bool = False) -> Encoded:
        """Runs the encoder over pictures once; ``rescore`` scores them then as often as you like, after any change."""
        return self.encode_refs(list_images(source, channels_first=channels_first))

    def encode_refs(self, refs: Iterable[ImageRef]) -> Encoded:
        """As ``encode``, of pictures that ``list_images`` has listed."""
        return encode_pictures(self._scorer(self.context), refs, encoder=self._encoder())

    def rescore(self, encoded: Encoded, target: str | None = None) -> Iterator[Result]:
        """Results of encoded pictures, by the references and thresholds of now; the encoder does not run.

        Args:
            encoded: from ``encode``.
            target: another name for what is to be seen.

        Raises:
            UsageError: another encoder or another geometry made them; names what differs.
        """
        encoded.check(self._encoder())
        own = self.over(len(encoded))
        scorer = own._scoring(self.context if target is None else self._prepared(check_target(target)))
        for scored in self._with_notes(answers(scorer, encoded, keep_images=True)):
            yield result_of(scored, scorer, self.thresholds, self.calibration)

    judge = rescore  # its name in earlier versions

    def answers(self, encoded: Encoded, marks: Sequence[Mark] = ()) -> Iterator[Scored]:
        """Scores and maps of encoded pictures, before any threshold and at model size; ``result`` makes verdicts of them.

        Args:
            encoded: from ``encode``.
            marks: corrections that act on every score; see ``references/corrections.py``.
        """
        yield from self._with_notes(answers(self.over(len(encoded))._scoring(self.context), encoded, marks=marks))

    def fork(self) -> Inspector:
        """The same model with references, thresholds and a calibration of its own, so that users do not meet in them."""
        return self._with(references=self.references.copy())

    def _encoder(self) -> dict[str, Any]:
        return describe_encoder(self._scorer(Context()))

    def result(self, scored: Scored, thresholds: Thresholds) -> Result:
        """Verdict, map at original size and regions of a scored picture."""
        return result_of(scored, self._scorer(self.context), thresholds, self.calibration)

    def describe(self) -> dict[str, Any]:
        """The detector and everything else that a score depends on, as a JSON object."""
        there = self.references.names or self.references.anomalous_names
        kept = self.references.describe() | {"coreset": self.coreset} if there else None
        return {
            **describe_encoder(self._scorer(self.context)),
            "target": self.target,
            "references": kept,
            "map_range": list(self.detector.map_range),
            "words": list(self.context.words),
            "sentences": {kind: list(lines) for kind, lines in self.context.sentences.items()},
        }
