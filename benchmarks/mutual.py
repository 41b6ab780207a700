"""MuSc's mutual scoring: its speed beside ``torch.cdist``, its neighbourhood means beside ``unfold``, and ELPV.

    python benchmarks/mutual.py
    pip install 'zsad[bench]' && python benchmarks/mutual.py --elpv

The first prints medians over interleaved pairs at the size of ViT-L/14 at 518 px, and how far the two results are apart. The
second scores 400 ELPV cells (200 of defect probability 0, 200 of 1, drawn by seed) with the embedded default's tower, every
pair of them and each with 64 others; the data set is for measuring only (CC BY-NC-SA 4.0).
"""

from __future__ import annotations

import argparse
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from memory import peak_mb
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import zsad
from zsad.datasets import read_elpv
from zsad.metrics import image_auroc
from zsad.references.mutual_scoring import lnamd, nearest_cosines, rerank
from zsad.types import ImageFeatures

SIDE, CHANNELS, RADII = 37, 1024, (1, 3, 5)
POOL = 64


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and what the call gave."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def interleaved(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], pairs: int) -> tuple[float, float, float, float]:
    """Median seconds of both, median ratio theirs / ours, and the largest difference of the results."""
    ours(), theirs()
    rows = [(timed(ours), timed(theirs)) for _ in range(pairs)]
    apart = (rows[0][0][1] - rows[0][1][1]).abs().max().item()
    return median(a[0] for a, _ in rows), median(b[0] for _, b in rows), median(b[0] / a[0] for a, b in rows), apart


def pictures(count: int) -> Tensor:
    """Seeded patches (count, L, C) with the large common part that raw hidden states have."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(CHANNELS, generator=generator)
    return common + torch.randn(count, SIDE * SIDE, CHANNELS, generator=generator)


def scoring(pairs: int) -> str:
    """Both directions of one pair of pictures, one neighbourhood, one layer."""
    one, other = F.normalize(pictures(2), dim=-1)
    held = other.T.contiguous()[None, None]

    def ours() -> Tensor:
        there, back = nearest_cosines(one[None], held)
        return (2 - 2 * torch.stack([there, back])).clamp(min=0).sqrt().flatten()

    def theirs() -> Tensor:
        return torch.cat([torch.cdist(one, other).min(1).values, torch.cdist(other, one).min(1).values])

    own, cdist, ratio, apart = interleaved(ours, theirs, pairs)
    exact = (one.double() @ other.double().T).amax(1)
    off = (ours()[: len(exact)] - (2 - 2 * exact).sqrt()).abs().max().item()
    return (
        f"| mutual scoring, ms per ordered pair, layer and radius | {500 * own:.1f} | {500 * cdist:.1f} (torch.cdist) "
        f"| {ratio:.2f} | {apart:.1e} (ours to float64: {off:.1e}) |"
    )


def unfolded(patches: Tensor) -> Tensor:
    """LNAMD by ``unfold`` and pooling, as published: (R, L, C)."""
    block = F.layer_norm(patches, patches.shape).T.unflatten(1, (SIDE, SIDE))[None]  # (1, C, h, w)
    found = []
    for side in RADII:
        windows = F.unfold(block, side, padding=side // 2)[0].T[:, None]  # (L, 1, C * r * r)
        found.append(F.normalize(F.adaptive_avg_pool1d(windows, CHANNELS)[:, 0], dim=-1))
    return torch.stack(found)


def neighbourhoods(pairs: int) -> str:
    """All radii of one picture and layer."""
    patches = pictures(1)
    own, theirs, ratio, apart = interleaved(
        lambda: lnamd(patches, (SIDE, SIDE), RADII)[:, 0], lambda: unfolded(patches[0]), pairs
    )
    return f"| LNAMD, ms, radii 1, 3, 5 | {1000 * own:.1f} | {1000 * theirs:.1f} (unfold) | {ratio:.1f} | {apart:.1e} |"


# ------------------------------------------------------------------ ELPV
def cells(count: int) -> tuple[list[Any], list[int]]:
    """``count`` cells, half of them of defect probability 0 and half of 1, drawn by seed, and their labels."""
    rng, found = random.Random(0), []
    for probability in (0, 1):
        found += rng.sample([cell for cell in read_elpv() if cell.probability == probability], count // 2)
    rng.shuffle(found)
    return found, [cell.label for cell in found]


@torch.inference_mode()
def elpv(pool: int | None, count: int) -> str:
    """One row: AUROC with and without RsCIN, seconds of the mutual scoring, peak memory of this process.

    Where other programs share the machine, CPU seconds are the steadier figure.
    """
    chosen, labels = cells(count)
    detector = zsad.create("musc", backbone="compact", pool=pool, rscin_k=())
    features: list[ImageFeatures] = []
    for cell in tqdm(chosen, mininterval=5, disable=None):
        rgb = np.asarray(Image.open(cell.path).convert("RGB"))
        features.append(detector.encode(detector.backbone.preprocess(rgb)[None]))
    said = detector.estimate(count, features[0])
    context = detector.prepare()
    busy = time.process_time()
    seconds, scores = timed(lambda: torch.cat([one.pred_score for one in detector.score_set(features, context)]))
    busy = time.process_time() - busy
    peak = peak_mb() / 1000
    again = rerank(scores, torch.cat([one.image for one in features]), (1, 2, 3))
    aurocs = [image_auroc(one.tolist(), labels) for one in (again, scores)]
    return f"| {pool or 'all'} | {aurocs[0]:.3f} | {aurocs[1]:.3f} | {seconds:.0f} ({said[0]:.0f}) | {busy:.0f} | {peak:.2f} |"


def main() -> None:
    """Prints markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elpv", action="store_true")
    parser.add_argument("--count", type=int, default=400, help="pictures of ELPV")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # a pool, 0 for all, in a process of its own
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.only is not None:
        print(elpv(given.only or None, given.count))
        return
    if given.elpv:
        print("| compared with | image AUROC, RsCIN | without RsCIN | seconds (estimated) | CPU seconds | peak GB |")
        print("|---|---|---|---|---|---|")
        for pool in (0, POOL):
            words = [
                sys.executable,
                __file__,
                "--count",
                str(given.count),
                "--threads",
                str(given.threads),
                "--only",
                str(pool),
            ]
            print(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip(), flush=True)
    else:
        print("| | here | there | ratio | largest difference |\n|---|---|---|---|---|")
        with torch.inference_mode():
            print(scoring(given.pairs), neighbourhoods(given.pairs), sep="\n")
    print(f"\n- {platform.machine()}, {given.threads} threads, torch {torch.__version__}, zsad {zsad.__version__}")


if __name__ == "__main__":
    main()
