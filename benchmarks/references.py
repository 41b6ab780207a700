"""Image AUROC of the embedded default on ELPV (solar cells) by number of references, and in batch mode.

    pip install 'zsad[bench]'
    python benchmarks/references.py

Cells of defect probability 0 against those of probability 1, mono- and polycrystalline apart, as ``elpv.py`` takes them.
Each seed draws 16 normal cells as references; they are no test pictures for any number of references, and the smaller sets
are the first of the 16. Zero-shot is measured on the same test pictures. Batch mode scores all cells of a kind, each by a
seeded choice of others. Every picture is encoded once and kept in half precision (0.6 GB). The data set is for measuring only
(CC BY-NC-SA 4.0).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm, trange

import zsad
from zsad.datasets import KINDS, Cell, read_elpv
from zsad.metrics import image_auroc
from zsad.training.cache import stacked
from zsad.types import Bank, Context, ImageFeatures
from zsad.weights.checkpoints import sha256_of

COUNTS = (1, 2, 4, 8, 16)
BATCH = 16


class Encoded(Sequence[ImageFeatures]):
    """Features in half precision, given out in single precision: one picture, or a slice as one batch."""

    def __init__(self, detector: Any, cells: list[Cell]) -> None:
        self.calls, parts = 0, []
        for start in trange(0, len(cells), BATCH, desc="encoding", mininterval=5, disable=None):
            rgb = [np.asarray(Image.open(cell.path).convert("RGB")) for cell in cells[start : start + BATCH]]
            features = detector.encode(torch.stack([detector.preprocess(one) for one in rgb]))
            parts += [features[row : row + 1].to(torch.float16) for row in range(len(rgb))]
            self.calls += len(rgb)
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> ImageFeatures: ...
    @overload
    def __getitem__(self, index: slice) -> ImageFeatures: ...
    def __getitem__(self, index: int | slice) -> ImageFeatures:
        some = self.parts[index] if isinstance(index, slice) else [self.parts[index]]
        return stacked(some).to(torch.float32)


def chosen_cells(kind: str, most: int | None) -> list[Cell]:
    """Those of probability 0 and 1; at most so many of each label, a seeded choice."""
    cells = [cell for cell in read_elpv(kind) if cell.probability in (0, 1)]
    if most is None:
        return cells
    order, kept = np.random.default_rng(0).permutation(len(cells)), []
    for label in (0, 1):
        kept += [int(place) for place in order if cells[place].label == label][:most]
    return [cells[place] for place in sorted(kept)]


def context_of(detector: Any, encoded: Encoded, chosen: Sequence[int]) -> Context:
    """What ``prepare`` makes of references, from features that are encoded already."""
    rows = [detector.reference_rows(encoded[index]) for index in chosen]
    banks = {}
    for key in rows[0]:
        whole = torch.cat([one[key] for one in rows])  # (K, M, C)
        banks[key] = Bank(whole.flatten(0, 1), torch.arange(len(whole)).repeat_interleave(whole.shape[1]))
    return replace(detector.prepare(), banks=banks)


def score_all(detector: Any, features: ImageFeatures, contexts: Sequence[Context]) -> Tensor:
    """(B, 1 + contexts) scores: zero-shot, then each context's."""
    plain = replace(contexts[0], banks={})
    return torch.stack([detector.score(features, context).pred_score for context in (plain, *contexts)], 1)


def by_references(detector: Any, encoded: Encoded, labels: np.ndarray[Any, Any], seeds: int) -> dict[str, list[float]]:
    """AUROC per number of references ("0" is zero-shot), one value per seed."""
    normal, draws, contexts = np.flatnonzero(labels == 0), [], []
    for seed in range(seeds):
        draws.append(np.random.default_rng(seed).choice(normal, max(COUNTS), replace=False))
        contexts += [context_of(detector, encoded, draws[-1][:count].tolist()) for count in COUNTS]
    parts = []
    for start in trange(0, len(encoded), BATCH, desc="references", mininterval=5, disable=None):
        parts.append(score_all(detector, encoded[start : start + BATCH], contexts))
    scores = torch.cat(parts)
    found: dict[str, list[float]] = {str(count): [] for count in (0, *COUNTS)}
    for seed, drawn in enumerate(draws):
        test = np.setdiff1d(np.arange(len(labels)), drawn)
        for place, values in enumerate(found.values()):
            column = 0 if place == 0 else seed * len(COUNTS) + place
            values.append(image_auroc(scores[test, column], labels[test]))
    return found


def by_batch(detector: Any, encoded: Encoded, labels: np.ndarray[Any, Any], pool: int, seeds: int) -> list[float]:
    """AUROC of batch mode over all pictures, one value per choice of the others."""
    found = []
    for seed in range(seeds):
        together = zsad.create("compact", backbone=detector.backbone, batch=True, pool=pool, seed=seed)
        answers = together.score_set(encoded, together.prepare())
        scores = [float(one.pred_score) for one in tqdm(answers, "batch", len(encoded), mininterval=5, disable=None)]
        found.append(image_auroc(scores, labels))
    return found


@torch.inference_mode()
def measure(kinds: Sequence[str], seeds: int, pool: int, batch_seeds: int, most: int | None) -> dict[str, Any]:
    """All figures, with what a reader needs to repeat them."""
    detector, started = zsad.create("compact"), time.perf_counter()
    found: dict[str, Any] = {"auroc": {}, "counts": {}, "encoded pictures": 0}
    for kind in kinds:
        cells = chosen_cells(kind, most)
        labels, encoded = np.array([cell.label for cell in cells]), Encoded(detector, cells)
        found["auroc"][kind] = by_references(detector, encoded, labels, seeds)
        found["auroc"][kind]["batch"] = by_batch(detector, encoded, labels, pool, batch_seeds)
        found["counts"][kind] = [int((labels == 0).sum()), int(labels.sum())]
        found["encoded pictures"] += encoded.calls
    return found | {
        "references": f"{seeds} draws",
        "batch": f"each cell by {pool} others of its kind, {batch_seeds} choices of them",
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "backbone": f"{detector.backbone.name} at {detector.backbone.image_size} px",
        "checkpoint_sha256": detector.weights_sha256,
        "data": "elpv-dataset, labels.csv " + sha256_of(read_elpv()[0].path.parents[1] / "labels.csv")[:16],
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}",
        "versions": f"zsad {zsad.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: mean and standard deviation over the seeds."""
    kinds = {kind: "{} ({} normal, {} defective)".format(kind, *count) for kind, count in found["counts"].items()}
    lines = ["| compact on ELPV, image AUROC | " + " | ".join(kinds.values()) + " |", "|---" * (len(kinds) + 1) + "|"]
    names = {"0": "zero-shot", "1": "1 reference"} | {str(count): f"{count} references" for count in COUNTS[1:]}
    for key, name in (names | {"batch": "batch, no reference"}).items():
        values = [found["auroc"][kind][key] for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(f"{np.mean(one):.3f} ± {np.std(one):.3f}" for one in values) + " |")
    rest = [f"- {key}: {value}" for key, value in found.items() if key not in ("auroc", "counts")]
    return "\n".join([*lines, "", *rest])


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=100)
    parser.add_argument("--batch-seeds", type=int, default=3)
    parser.add_argument("--most", type=int, help="a quick look: at most so many cells of each kind and label; all if left out")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    found = measure(wanted.kinds, wanted.seeds, wanted.pool, wanted.batch_seeds, wanted.most)
    print(json.dumps(found, indent=1) if wanted.json else table(found))


if __name__ == "__main__":
    main()
