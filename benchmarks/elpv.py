"""Zero-shot image AUROC on ELPV (solar cells), as a markdown table.

    pip install 'zsad[bench]'
    python benchmarks/elpv.py --method compact

Cells of defect probability 0 against those of probability 1, mono- and polycrystalline apart. The data set is for
measuring only (CC BY-NC-SA 4.0).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import zsad
from zsad.datasets import KINDS, Cell, read_elpv
from zsad.metrics import image_auroc
from zsad.weights.checkpoints import sha256_of

BATCH = 8


@torch.inference_mode()
def scores(detector: Any, cells: list[Cell], target: str) -> list[float]:
    """One zero-shot score per cell."""
    context, found = detector.prepare(target), []
    own = detector.for_context(context)
    for start in tqdm(range(0, len(cells), BATCH), mininterval=5, disable=None):
        rgb = [np.asarray(Image.open(cell.path).convert("RGB")) for cell in cells[start : start + BATCH]]
        found += own(torch.stack([own.preprocess(one) for one in rgb]), context).pred_score.tolist()
    return found


def measure(detector: Any, target: str) -> dict[str, Any]:
    """AUROC per kind, with all that a reader needs to repeat it."""
    auroc, counts, started = {}, {}, time.perf_counter()
    for kind in KINDS:
        cells = [cell for cell in read_elpv(kind) if cell.probability in (0, 1)]
        labels = [cell.label for cell in cells]
        auroc[kind] = image_auroc(scores(detector, cells, target), labels)
        counts[kind] = [len(labels) - sum(labels), sum(labels)]
    seconds = time.perf_counter() - started
    return {
        "auroc": auroc,
        "counts": counts,
        "pictures_per_second": sum(map(sum, counts.values())) / seconds,
        "method": detector.name,
        "backbone": f"{detector.backbone.name} at {detector.backbone.image_size} px",
        "backbone_sha256": detector.backbone.weights_sha256,
        "checkpoint_sha256": detector.weights_sha256,
        "data": "elpv-dataset, labels.csv " + sha256_of(read_elpv()[0].path.parents[1] / "labels.csv")[:16],
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}",
        "versions": f"zsad {zsad.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"| ELPV, zero-shot | normal | defective | image AUROC of {found['method']} |", "|---|---|---|---|"]
    for kind, value in found["auroc"].items():
        normal, bad = found["counts"][kind]
        lines.append(f"| {kind} | {normal} | {bad} | {value:.3f} |")
    said = ("backbone", "backbone_sha256", "checkpoint_sha256", "data", "machine", "versions")
    lines += ["", *(f"- {key.replace('_', ' ')}: {found[key]}" for key in said)]
    return "\n".join([*lines, f"- pictures per second, decoding included: {found['pictures_per_second']:.1f}"])


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="compact")
    parser.add_argument("--backbone", help="a name; the method's own if left out")
    parser.add_argument("--checkpoint", help="learned weights; the method's own if left out")
    parser.add_argument("--target", default="solar cell")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    detector = zsad.create(wanted.method, backbone=wanted.backbone, checkpoint=wanted.checkpoint)
    found = measure(detector, wanted.target)
    print(json.dumps(found, indent=1) if wanted.json else table(found))


if __name__ == "__main__":
    main()
