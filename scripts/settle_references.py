"""Chooses how the embedded default weighs references, on auxiliary categories, and measures it on others.

    pip install 'zsad[train]'
    python scripts/settle_references.py

Prints the constants of ``zsad/methods/compact/second.py`` and ``memory.py``: usual distances, the weight of the distance in the
first tower (of 0, 0.1, 0.2, 0.3 and 0.45 whichever has the highest mean of image and pixel AUROC over all categories of the
choosing families and all numbers of references), the scale; then zero-shot, distance alone and both, for the choosing and for
the reporting families. No benchmark data set is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from compact_rules import FINE
from reference_categories import REFERENCES, pictures
from torch import Tensor
from tqdm import tqdm

import zsad
from zsad.alignment.losses import top_mean
from zsad.alignment.maps import upsample
from zsad.methods.compact.folder import LAST
from zsad.methods.compact.head import SIDES, TOP
from zsad.methods.compact.memory import ONE, USUAL, WEIGHT, ZERO, Near, departure, nearest_in
from zsad.methods.compact.novelty import compare_within
from zsad.methods.compact.second import (
    ALONE_ONE,
    ALONE_ZERO,
    BANK,
    DISTANCE,
    NEAR_ONE,
    NEAR_ZERO,
    add_distance,
    add_within,
    near_taps,
    reference_distances,
    second_rows,
)
from zsad.methods.compact.second_head import NOVELTY
from zsad.metrics import image_auroc
from zsad.types import Bank, ImageFeatures

COUNTS, WEIGHTS = (1, 2, 4, 8, 16), (0.0, 0.1, 0.2, 0.3, 0.45)
Mapped: TypeAlias = Callable[[int], Tensor]  # number of references -> maps (N, 32, 32)


@dataclass
class Category:
    """One category's test pictures against its references."""

    bad: Tensor  # (N,) bool
    fine: Tensor  # (N, 32, 32) bool, some of the cell is defective
    features: ImageFeatures  # N, for the grids
    zero: Tensor  # (N, 32, 32) zero-shot map
    near: dict[int, Near]  # by number of references
    within: Tensor  # (N, 32, 32) zero-shot map with the second tower
    novelty: Tensor  # (N, h, w) in the second tower
    distance: dict[int, Tensor]  # (N, h, w) in the second tower, by number of references


def bank_of(rows: dict[str, Tensor], chosen: Tensor) -> dict[str, Bank]:
    """Memory banks of some references."""
    return {key: Bank(x[chosen].flatten(0, 1), chosen.repeat_interleave(x.shape[1])) for key, x in rows.items()}


@torch.inference_mode()
def categories(detector: Any, part: str, per_family: int) -> Iterator[Category]:
    """Draws and encodes one category at a time, and finds the nearest reference patches."""
    context, kinds, images, masks, before = detector.prepare(), [], [], [], None
    for name, kind, rgb, mask in [*tqdm(pictures(part, per_family, 0), part, mininterval=5), ("", "", None, None)]:
        if before not in (None, name):
            whole = detector.encode(torch.stack(images))
            references, test = whole[:REFERENCES], whole[REFERENCES:]
            banked = detector.reference_rows(references)
            order = torch.randperm(REFERENCES, generator=torch.Generator().manual_seed(0))
            banks = {count: bank_of(banked, order[:count]) for count in COUNTS}
            near = {count: nearest_in(test.taps, bank) for count, bank in banks.items()}
            second = test.streams["vit"]
            distance = {count: reference_distances(near_taps(test.streams), bank[BANK]) for count, bank in banks.items()}
            fine = F.max_pool2d(torch.from_numpy(np.stack(masks[REFERENCES:]))[:, None].float(), 8)[:, 0] > 0
            zero = detector.head.zero_shot(test.taps, context, detector.weights, detector.bias)[0]
            bad = torch.tensor([k != "" for k in kinds[REFERENCES:]])
            rows = second_rows(second).transpose(1, 2).unflatten(2, second[LAST].grid)
            yield Category(bad, fine, test[:1], zero, near, add_within(zero, second), compare_within(rows)[0], distance)
            kinds, images, masks = [], [], []
        if rgb is not None:
            kinds.append(kind)
            images.append(detector.preprocess(rgb))
            masks.append(mask)
        before = name


def joined(detector: Any, one: Category, weight: float) -> Mapped:
    """The method's map with a weight of the distance, before scaling by the constants."""
    taps, weights = one.features.taps, detector.weights[1:-1]
    return lambda count: departure(one.zero, one.near[count], taps, weights, weight) * (ONE - ZERO) + ZERO


def near_map(detector: Any, one: Category) -> Mapped:
    """The method's map with both towers, by number of references."""
    first = joined(detector, one, WEIGHT)
    return lambda count: add_distance((first(count) - ZERO) / (ONE - ZERO), one.distance[count])


def alone(one: Category) -> Mapped:
    """The mean of the stages' distances, nothing else."""
    grids = {stage: one.features.taps[stage].grid for stage in SIDES}

    def mapped(count: int) -> Tensor:
        parts = [
            upsample(d.unflatten(1, grids[stage]) / USUAL[stage][1], (32, 32)) for stage, (d, _) in one.near[count].items()
        ]
        return torch.stack(parts).mean(0)

    return mapped


def quality(found: list[Category], mapped: Callable[[Category], Mapped], count: int) -> tuple[float, float]:
    """Image and pixel AUROC, means over the categories."""
    image, pixel = [], []
    for one in found:
        maps = mapped(one)(count)
        image.append(image_auroc(top_mean(upsample(maps, (FINE, FINE)), TOP), one.bad))
        pixel.append(image_auroc(maps[one.bad].flatten(), one.fine[one.bad].flatten()))
    return float(np.mean(image)), float(np.mean(pixel))


def constants(detector: Any, found: list[Category]) -> None:
    """Prints the constants that these categories give beside those in use."""
    for name, maps, used in (
        ("novelty", [one.novelty[~one.bad] for one in found], NOVELTY),
        ("distance", [one.distance[1][~one.bad] for one in found], DISTANCE),
    ):
        usual = torch.cat(maps)
        print(f"second tower: usual {name} {usual.mean():.3f}, std {usual.std():.3f} (in use: {used})")
    within = torch.cat([one.within for one in found]) * (ALONE_ONE - ALONE_ZERO) + ALONE_ZERO
    bad, fine = torch.cat([one.bad for one in found]), torch.cat([one.fine for one in found])
    high = np.quantile(within[bad][fine[bad]].numpy(), 0.9)
    print(f"by itself: normal median {within[~bad].median():.3f}, defect 90 % {high:.3f} (in use: {ALONE_ZERO}, {ALONE_ONE})")
    for stage in SIDES:
        usual = torch.cat([one.near[1][stage][0][~one.bad].flatten() for one in found])
        print(f"stage {stage}: usual distance {usual.mean():.3f}, std {usual.std():.3f} (in use: {USUAL[stage]})")
    for weight in WEIGHTS:
        both = [quality(found, lambda one, w=weight: joined(detector, one, w), count) for count in COUNTS]  # type: ignore[misc]
        print(f"weight {weight}: " + "  ".join(f"{i:.3f}/{p:.3f}" for i, p in both) + f"  mean {np.mean(both):.4f}")
    for count in COUNTS:
        maps = [joined(detector, one, WEIGHT)(count) for one in found]
        normal = torch.cat([x[~one.bad].flatten() for x, one in zip(maps, found, strict=True)])
        defect = torch.cat([x[one.bad][one.fine[one.bad]] for x, one in zip(maps, found, strict=True)])
        high = np.quantile(defect.numpy(), 0.9)
        print(f"{count} references: normal median {normal.median():.2f}, defect 90 % {high:.2f} (in use: {ZERO}, {ONE})")
        both = [near_map(detector, one)(count) * (NEAR_ONE - NEAR_ZERO) + NEAR_ZERO for one in found]
        normal = torch.cat([x[~one.bad].flatten() for x, one in zip(both, found, strict=True)])
        high = np.quantile(torch.cat([x[one.bad][one.fine[one.bad]] for x, one in zip(both, found, strict=True)]).numpy(), 0.9)
        used = f"(in use: {NEAR_ZERO}, {NEAR_ONE})"
        print(f"{count} references, both towers: normal median {normal.median():.2f}, defect 90 % {high:.2f} {used}")


def main() -> None:
    """Prints constants and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-family", type=int, default=6)
    wanted = parser.parse_args()
    detector = zsad.create("compact")
    with torch.inference_mode():
        for part in ("choosing", "reporting"):
            found = list(categories(detector, part, wanted.per_family))
            if part == "choosing":
                constants(detector, found)
            ways: dict[str, Callable[[Category], Mapped]] = {
                "zero-shot, first tower": lambda one: lambda count: one.zero,
                "zero-shot": lambda one: lambda count: one.within,
                "distance alone": alone,
                "both": lambda one: joined(detector, one, WEIGHT),
                "both, both towers": lambda one: near_map(detector, one),
            }
            print(f"\n| {part}, image / pixel AUROC | " + " | ".join(map(str, COUNTS)) + " |\n" + "|---" * 6 + "|")
            for name, way in ways.items():
                values = [quality(found, way, count) for count in COUNTS]
                print(f"| {name} | " + " | ".join(f"{i:.3f} / {p:.3f}" for i, p in values) + " |")


if __name__ == "__main__":
    main()
