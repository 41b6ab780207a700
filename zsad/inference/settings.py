"""Settings of an ``Inspector``: target, device, precision, counts, the method; checked, and described for fingerprints."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch

from zsad.common.file_names import many
from zsad.decision.calibration import Calibration, resolve_thresholds
from zsad.decision.thresholds import Thresholds, fixed, with_pixel
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.inference.scorer import PRECISIONS, Scorer
from zsad.registry import create, list_methods, method_class
from zsad.types import Context
from zsad.weights.learned import facts_of

__all__ = [
    "AUTO_FEWEST",
    "at_least_one",
    "batch_mode",
    "build_method",
    "check_target",
    "check_words",
    "compared",
    "default_batch",
    "describe_encoder",
    "known_levels",
    "pick_device",
    "pick_precision",
    "share_of_rows",
]

TARGET_WORDS, TARGET_CHARACTERS = 40, 300  # CLIP reads 77 tokens, and a prompt's own words take up to 20 of them
CPU_BATCH, ACCELERATOR_BATCH = 8, 16
CONCEPTS = ("focus", "ignore_words")  # keywords of methods that project features to what words differ in
AUTO_FEWEST = 8  # pictures that are compared with each other by themselves; benchmarks/real_pictures.py has the figures


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
    if not target.isprintable():
        raise UsageError(f"The target {target!r} has characters that do not print. Give a plain name: 'metal nut'.")
    if len(target) > TARGET_CHARACTERS or len(target.split()) > TARGET_WORDS:
        raise UsageError(
            f"The target has {many(len(target.split()), 'word')} and {many(len(target), 'character')}; a text tower reads 77 "
            f"tokens. Give a name of at most {TARGET_WORDS} words and {TARGET_CHARACTERS} characters, such as 'metal nut'."
        )
    return target


def known_levels(
    inside: tuple[Calibration | None, Thresholds | None],
    calibration: Calibration | str | Path | None,
    max_false_alarms: float | None,
    review_false_alarms: float | None,
    *,
    threshold: float | None,
    review_at: float | None,
    pixel_threshold: float | None,
) -> tuple[Calibration | None, Thresholds]:
    """The calibration in force, and the levels: what is given goes before the calibration, that before the detector's own.

    Args:
        inside: the detector's own, ``Detector.own_levels``.
        calibration: as of ``Inspector``; the others likewise.
        max_false_alarms: share of normal pictures that may be called anomalous.
        review_false_alarms: share of normal pictures that may be called anomalous or review.
        threshold: raw score of the anomalous.
        review_at: raw score of what is for review.
        pixel_threshold: map value.
    """
    loaded = Calibration.load(calibration) if isinstance(calibration, (str, Path)) else calibration
    found = inside[0] if loaded is None and threshold is None else loaded
    below = None if found is not None and threshold is None else review_at  # below the calibration's level then
    levels, own = fixed(threshold, below, pixel_threshold), None if below is not None else review_at
    resolved = resolve_thresholds(levels, found, max_false_alarms, review_false_alarms, own)
    if resolved.anomalous is None and inside[1] is not None:
        resolved = with_pixel(inside[1], resolved)
    return found, resolved


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


def default_batch(device: torch.device) -> int:
    """Pictures per pass where the user gives no number."""
    return CPU_BATCH if device.type == "cpu" else ACCELERATOR_BATCH


def at_least_one(name: str, value: int) -> int:
    """The value. Raises ``UsageError`` where it is less than one."""
    if value < 1:
        raise UsageError(f"{name} is {value}; it has to be at least 1.")
    return value


def batch_mode(batch: bool | str) -> str:
    """ "auto", "on" or "off"; True and False stand for the last two. Raises ``UsageError`` for anything else."""
    mode = ("on" if batch else "off") if isinstance(batch, bool) else batch
    if mode not in ("auto", "on", "off"):
        raise UsageError(f"batch is {batch!r}. Give 'auto', 'on' or 'off'.")
    return mode


def compared(detector: Detector, context: Context) -> Detector:
    """The detector in batch mode. Raises ``UsageError`` where it has none."""
    found = detector if detector.needs_set(context) else detector.as_batch(context)
    if found is None:
        raise UsageError(f"{detector.name} scores each picture by itself and cannot compare pictures. Leave batch out.")
    return found


def share_of_rows(coreset: float) -> float:
    """The share of the references' rows that are kept. Raises ``UsageError`` where it is not in (0, 1]."""
    if not 0 < coreset <= 1:
        raise UsageError(f"coreset is {coreset:g}; give the share of the references' patches that are kept, in (0, 1].")
    return coreset


def describe_encoder(scorer: Scorer) -> dict[str, Any]:
    """The encoder as a JSON object: everything that features depend on."""
    detector, backbone, facts = scorer.detector, scorer.detector.backbone, facts_of(scorer.detector)
    further = {"encoders": facts["encoders"]} if "encoders" in facts else {}
    return further | {
        "method": detector.name,
        "arguments": {key: plain(value) for key, value in detector.arguments().items()},
        "backbone": backbone.name,
        "backbone_sha256": backbone.weights_sha256,
        "weights_sha256": detector.weights_sha256,
        "image_size": backbone.image_size,
        "activation": backbone.activation,
        "position_embedding": backbone.position_embedding,
        "precision": scorer.precision,
        "value_range": None if scorer.value_range is None else list(scorer.value_range),
        "geometry": scorer.geometry.describe(),
    }


def build_method(method: str | Detector, backbone: Any, checkpoint: str | Path | None, arguments: dict[str, Any]) -> Detector:
    """The method by its name, or the built one that was given."""
    if isinstance(method, str):
        check_words(method, arguments)
        built: Detector = create(method, backbone=backbone, checkpoint=checkpoint, **arguments)
        return built
    given = [name for name, value in (("backbone", backbone), ("checkpoint", checkpoint)) if value is not None]
    if given or arguments:
        raise UsageError(
            f"A built {method.name} was given together with {', '.join([*given, *arguments])}. Pass them to create(), "
            "or pass the method by name."
        )
    return method


def check_words(method: str, arguments: dict[str, Any]) -> None:
    """Raises ``UsageError`` where words say what to look at and the method has no space that pictures and texts share."""
    asked = [key for key in CONCEPTS if arguments.get(key)]
    if not asked:
        return
    takes = [name for name in list_methods() if CONCEPTS[0] in signature(method_class(name).__init__).parameters]
    if method.partition(".")[0] not in takes:
        no_text = "encode_text" not in method_class(method).needs
        why = f"{method} has no space that pictures and texts share" if no_text else f"{method} compares no projected features"
        options = " and ".join(f"--{key.replace('_', '-')}" for key in asked)
        raise UsageError(f"{why}, so {options} would do nothing. Take a CLIP tower with --method {' or '.join(takes)}.")


def plain(value: Any) -> Any:
    """JSON's view of a constructor keyword."""
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
