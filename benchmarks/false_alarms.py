"""Does the guaranteed false-alarm rate hold? Normal solar cells (ELPV), split at random many times, as a markdown table.

    pip install 'zsad[bench]'
    python benchmarks/false_alarms.py --method compact

All cells of defect probability 0 are scored once. Then, again and again, ``--normal`` of them calibrate and ``--test`` others
are classified. Beside the measured rate stand mean and deviation of the beta-binomial distribution that the theory gives
for these sizes: a random split makes the pictures exchangeable, so a difference would be an error of the code or come from
ties. What no split can test is a change of what is inspected; the last rows show one: calibrated on monocrystalline cells,
classified are polycrystalline ones, and the other way round. With ``--references K`` (methods that take references) K cells are
drawn ``--draws`` times and given to the method, and the splits are spread over these draws.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from tqdm import tqdm

import zsad
from zsad.datasets import KINDS, Cell, read_elpv
from zsad.decision.conformal import threshold
from zsad.images.reading import list_images

RATES = (0.05, 0.10)
Scores = np.ndarray[Any, np.dtype[np.float64]]


def normal_cells() -> list[Cell]:
    return [cell for cell in read_elpv() if cell.probability == 0]


def scores_of(cells: list[Cell], wanted: argparse.Namespace, references: list[Cell] | None = None) -> Scores:
    """One score per cell, NaN for the references."""
    given = {} if references is None else {"references": [cell.path for cell in references]}
    inspector = zsad.Inspector(wanted.method, wanted.target, backbone=wanted.backbone, checkpoint=wanted.checkpoint, **given)
    left_out = {cell.path for cell in references or []}
    rest = [cell.path for cell in cells if cell.path not in left_out]
    found = iter([one.score for one in tqdm(inspector.scored(list_images(rest)), total=len(rest), mininterval=5, disable=None)])
    return np.array([np.nan if cell.path in left_out else next(found) for cell in cells])


def rates(pool: Scores, count: int, tested: int, guaranteed: float, splits: int, rng: np.random.Generator) -> list[float]:
    """Share of the tested pictures at or above the level, for each split of the pool."""
    found = []
    for _ in range(splits):
        drawn = rng.permutation(pool)[: count + tested]
        found.append(float(np.mean(drawn[count:] >= threshold(drawn[:count], guaranteed))))
    return found


def beta_binomial(count: int, tested: int, guaranteed: float) -> tuple[float, float]:
    """Mean and deviation of the share, with k / (count + 1) the largest such fraction within the guaranteed rate."""
    k = int(np.floor(guaranteed * (count + 1) + 1e-9))
    a, b = k, count + 1 - k
    variance = a * b * (a + b + tested) / (tested * (a + b) ** 2 * (a + b + 1))
    return a / (a + b), float(np.sqrt(variance))


def row(name: str, count: int, tested: int, guaranteed: float, found: list[float]) -> dict[str, Any]:
    mean, deviation = beta_binomial(count, tested, guaranteed)
    return {
        "split": name,
        "calibration": count,
        "test": tested,
        "guaranteed": guaranteed,
        "mean": float(np.mean(found)),
        "deviation": float(np.std(found, ddof=1)),
        "theory_mean": mean,
        "theory_deviation": deviation,
        "standard_error": deviation / len(found) ** 0.5,
    }


def shifted(cells: list[Cell], scores: Scores, wanted: argparse.Namespace, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Calibrated on one kind of cell, tested on the other: not exchangeable."""
    kinds, found = np.array([cell.kind for cell in cells]), []
    for kind in KINDS:
        here, there = scores[kinds == kind], scores[kinds != kind]
        for guaranteed in RATES:
            got = []
            for _ in range(wanted.splits):
                level = threshold(rng.permutation(here)[: wanted.normal], guaranteed)
                got.append(float(np.mean(rng.permutation(there)[: wanted.test] >= level)))
            found.append(row(f"shift: calibrated on {kind}, tested on the other", wanted.normal, wanted.test, guaranteed, got))
    return found


def measure(wanted: argparse.Namespace) -> dict[str, Any]:
    cells, rng = normal_cells(), np.random.default_rng(wanted.seed)
    draws = wanted.draws if wanted.references else 1
    found: dict[float, list[float]] = {guaranteed: [] for guaranteed in RATES}
    for _ in range(draws):
        chosen = rng.choice(len(cells), wanted.references, replace=False) if wanted.references else []
        scores = scores_of(cells, wanted, [cells[i] for i in chosen] or None)
        pool = scores[~np.isnan(scores)]
        for guaranteed in RATES:
            found[guaranteed] += rates(pool, wanted.normal, wanted.test, guaranteed, wanted.splits // draws, rng)
    rows = [row("random", wanted.normal, wanted.test, guaranteed, found[guaranteed]) for guaranteed in RATES]
    if not wanted.references:
        rows += shifted(cells, scores, wanted, rng)
    about = {"cells": len(cells), "distinct_scores": len(np.unique(pool)), "references": wanted.references, "draws": draws}
    return {"rows": rows, "splits": wanted.splits // draws * draws, "method": wanted.method, "seed": wanted.seed} | about


def table(found: dict[str, Any]) -> str:
    lines = ["| split | calibration | test | guaranteed rate | false alarms | deviation | theory: mean | deviation |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for one in found["rows"]:
        rest = " | " if one["split"] != "random" else f"{one['theory_mean']:.2%} | {one['theory_deviation']:.2%}"
        lines.append(
            f"| {one['split']} | {one['calibration']} | {one['test']} | {one['guaranteed']:.0%} | {one['mean']:.2%} | "
            f"{one['deviation']:.2%} | {rest} |"
        )
    errors = ", ".join(f"{one['standard_error']:.2%} at {one['guaranteed']:.0%}" for one in found["rows"][: len(RATES)])
    said = ("method", "cells", "distinct_scores", "references", "draws", "seed")
    lines += ["", f"- {found['splits']} splits; standard error of the mean over random splits: {errors}"]
    return "\n".join([*lines, *(f"- {key.replace('_', ' ')}: {found[key]}" for key in said)])


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="compact")
    parser.add_argument("--backbone", help="a name; the method's own if left out")
    parser.add_argument("--checkpoint", help="learned weights; the method's own if left out")
    parser.add_argument("--target", default="solar cell")
    parser.add_argument("--normal", type=int, default=60, help="pictures that calibrate")
    parser.add_argument("--test", type=int, default=200, help="pictures that are classified")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--references", type=int, default=0, metavar="K")
    parser.add_argument("--draws", type=int, default=10, help="draws of the references")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    found = measure(wanted)
    print(json.dumps(found, indent=1) if wanted.json else table(found))


if __name__ == "__main__":
    main()
