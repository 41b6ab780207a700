"""``certificate.json``: how far an exported model's outputs are from those of the method that it was made of."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsad.common.atomic_files import write_atomically
from zsad.common.file_names import many
from zsad.common.version import versions
from zsad.decision.thresholds import Thresholds
from zsad.errors import UsageError
from zsad.exports.pictures import Pictures
from zsad.inference.inspector import Inspector
from zsad.inference.scorer import Scored
from zsad.metrics.ranking import auroc

__all__ = ["FILE", "Certificate", "CertificateFailed", "Tolerance", "certify", "tolerance_of"]

FILE = "certificate.json"
PACKAGES = ("torch", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
FEWEST = 3  # pictures whose ranks are compared


class CertificateFailed(UsageError):
    """An exported model whose outputs are too far from the method's."""


@dataclass(frozen=True)
class Tolerance:
    """What is let pass; None: not asked for."""

    difference: float | None = None  # of any score, and of any map value
    auroc_loss: float | None = None  # on labelled pictures
    rank_correlation: float | None = None  # least, where pictures have no labels


def tolerance_of(precision: str) -> Tolerance:
    """What is let pass by default."""
    return Tolerance(difference=1e-4) if precision == "fp32" else Tolerance(auroc_loss=0.01, rank_correlation=0.95)


@dataclass(frozen=True)
class Certificate:
    """Outputs of both on the same pictures.

    Attributes:
        passed: nothing is beyond the tolerance.
        failed: what is, a clause each.
        tolerance: what is let pass.
        pictures: how many, where from, a digest of all their pixels, and how many could not be read.
        score: "worst" and "mean" absolute difference, and "picture", the name of the worst.
        map: likewise.
        rank_correlation: Spearman's, of the scores; None for fewer than 3 pictures, or where all scores of one are equal.
        verdicts: "threshold" and "flipped", the names of pictures whose label differs; None where there is no threshold.
        auroc: of the labelled pictures: "torch", "exported", "loss"; None where there are no labels.
        runtime: name, version and device.
        precision: of the exported model.
        machine: where both ran.
        versions: of the packages.
        made: when.
    """

    passed: bool
    failed: list[str]
    tolerance: dict[str, float | None]
    pictures: dict[str, Any]
    score: dict[str, Any]
    map: dict[str, Any]
    rank_correlation: float | None
    verdicts: dict[str, Any] | None
    auroc: dict[str, float] | None
    runtime: str
    precision: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    made: str

    def save(self, folder: Path) -> None:
        """Writes the file."""
        write_atomically(folder / FILE, (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode())

    def summary(self) -> str:
        """One line of figures."""
        parts = [
            many(self.pictures["count"], "picture"),
            f"scores differ by {self.score['worst']:.2g} at most and {self.score['mean']:.2g} on average",
            f"maps by {self.map['worst']:.2g} and {self.map['mean']:.2g}",
        ]
        parts += [] if self.rank_correlation is None else [f"rank correlation {self.rank_correlation:.4f}"]
        parts += [] if self.verdicts is None else [f"{many(len(self.verdicts['flipped']), 'verdict')} flipped"]
        parts += (
            [] if self.auroc is None else [f"AUROC {self.auroc['torch']:.4f} in torch, {self.auroc['exported']:.4f} exported"]
        )
        return ", ".join(parts)


def certify(torch_side: Inspector, exported: Inspector, pictures: Pictures, tolerance: Tolerance) -> Certificate:
    """Runs both on the pictures and compares.

    Args:
        torch_side: the method in torch.
        exported: what was written, opened again; has the thresholds.
        pictures: with labels, or without.
        tolerance: what is let pass.

    Raises:
        UsageError: no picture could be read.
    """
    pairs = list(zip(torch_side.scored(pictures.refs), exported.scored(pictures.refs), strict=True))
    good = [
        (place, own, other) for place, (own, other) in enumerate(pairs) if own.score is not None and other.score is not None
    ]
    if not good:
        why = next((own.error or other.error for own, other in pairs), "there is none")
        raise UsageError(f"No picture could be scored to compare the exported model on: {why}.")
    scores = np.array([(own.score, other.score) for _, own, other in good], dtype=np.float64)  # (N, 2)
    maps = [_map_differences(own, other) for _, own, other in good]
    names = [own.name for _, own, _ in good]
    rank, area = (
        _rank_correlation(scores),
        _auroc([pictures.labels[place] for place, _, _ in good] if pictures.labels else [], scores),
    )
    away = np.abs(scores[:, 0] - scores[:, 1])
    score: dict[str, float] = {"worst": float(away.max()), "mean": float(away.mean())}
    worst, mean = np.array(maps).T
    map_: dict[str, float] = {"worst": float(worst.max()), "mean": float(mean.mean())}
    failed = _beyond(tolerance, score["worst"], map_["worst"], rank, area)
    unread = len(pairs) - len(good)
    failed += [f"{many(unread, 'picture')} scored by one of the two alone"] if _one_sided(pairs) else []
    detector: Any = exported.detector
    return Certificate(
        not failed,
        failed,
        asdict(tolerance),
        {
            "count": len(good),
            "source": pictures.source,
            "sha256": pictures.digest([own for _, own, _ in good]),
            "errors": unread,
        },
        score | {"picture": names[int(away.argmax())]},
        map_ | {"picture": names[int(worst.argmax())]},
        rank,
        _verdicts(exported.thresholds, names, scores),
        area,
        detector.session(exported.device.type).runtime,
        detector.meta.model["precision"],
        machine(),
        versions(PACKAGES),
        time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def machine() -> dict[str, Any]:
    """Where this runs."""
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _map_differences(own: Scored, other: Scored) -> tuple[float, float]:
    """Worst and mean absolute difference of two maps, infinite where their shapes differ."""
    if own.model_map is None or other.model_map is None or own.model_map.shape != other.model_map.shape:
        return math.inf, math.inf
    away = np.abs(own.model_map.astype(np.float64) - other.model_map)
    return float(away.max()), float(away.mean())


def _one_sided(pairs: Sequence[tuple[Scored, Scored]]) -> bool:
    return any((own.score is None) != (other.score is None) for own, other in pairs)


def _rank_correlation(scores: np.ndarray[Any, Any]) -> float | None:
    from scipy.stats import spearmanr

    if len(scores) < FEWEST or any(np.ptp(side) == 0 for side in scores.T):
        return None
    return float(spearmanr(scores[:, 0], scores[:, 1]).statistic)


def _auroc(labels: list[int], scores: np.ndarray[Any, Any]) -> dict[str, float] | None:
    if len(set(labels)) < 2:
        return None
    own, other = (float(auroc(side, np.array(labels))) for side in scores.T)
    return {"torch": own, "exported": other, "loss": own - other}


def _verdicts(thresholds: Thresholds, names: Sequence[str], scores: np.ndarray[Any, Any]) -> dict[str, Any] | None:
    if thresholds.anomalous is None:
        return None
    flipped = [name for name, (a, b) in zip(names, scores, strict=True) if thresholds.label(a) != thresholds.label(b)]
    return {"threshold": thresholds.anomalous, "review": thresholds.review, "flipped": flipped}


def _beyond(tolerance: Tolerance, score: float, places: float, rank: float | None, area: dict[str, float] | None) -> list[str]:
    """What is beyond the tolerance; a figure that is asked for and cannot be computed is, too."""
    failed = []
    if (most := tolerance.difference) is not None:
        for what, found in (("scores", score), ("maps", places)):
            failed += [] if found <= most else [f"{what} differ by {found:.2g} where {most:g} is allowed"]
    if area is not None and (most := tolerance.auroc_loss) is not None and not area["loss"] <= most:
        failed.append(f"AUROC falls by {area['loss']:.4f} where {most:g} is allowed")
    if area is None and (least := tolerance.rank_correlation) is not None and not (rank is not None and rank >= least):
        told = "cannot be computed from so few scores" if rank is None else f"is {rank:.4f}"
        failed.append(f"the rank correlation {told} where {least:g} is needed")
    return failed
