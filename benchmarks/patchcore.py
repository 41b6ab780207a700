"""Memory and time of PatchCore with many references and a coreset, through the inspector: rows on disk, chosen block by block.

    python benchmarks/patchcore.py                      # 1,000 references of 1,369 patches x 1,024 channels, 10 % kept
    python benchmarks/patchcore.py --references 100
    python benchmarks/patchcore.py --method subspacead  # sums in place of rows; also mvg

The tower is a stand-in that makes up the features of ``coreset.py`` from a picture's number: the peak is that of references
alone. Every reference's rows (5.6 MB by default) lie in the temporary folder meanwhile: 5.6 GB for 1,000. The peak is read
when the references are there, and again when pictures are scored: verdicts without a calibration score up to 64 references by
the others first.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coreset import picture
from memory import peak_mb
from torch import Tensor, nn

import zsad
from zsad.types import ImageFeatures, Tap

SETTINGS: dict[str, dict[str, Any]] = {"patchcore": {}, "subspacead": {"rotations": 0}, "mvg": {"width": None}}


class MadeUp(nn.Module):
    """A tower of one layer whose features depend on the number that a picture bears."""

    name, depth, activation, position_embedding, weights_sha256 = "made-up", 1, "gelu", "bilinear", ""

    def __init__(self, grid: int, channels: int) -> None:
        super().__init__()
        self.grid, self.channels, self.image_size = grid, channels, 14 * grid
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def preprocess(self, rgb: Any) -> Tensor:
        """The number, as ``numbered`` wrote it, in place of a picture."""
        return torch.from_numpy(np.asarray(rgb)[0, 0].astype(np.float32))[:, None, None]

    def encode_image(self, images: Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """(B, 3, 1, 1) -> features of the one layer."""
        numbers = (images[:, :, 0, 0] @ torch.tensor([1.0, 256.0, 65536.0])).long().tolist()
        rows = torch.stack([picture(number, self.grid**2, self.channels) for number in numbers])
        return ImageFeatures(rows.mean(1), {1: Tap(rows, (self.grid, self.grid))})


def numbered(number: int) -> np.ndarray[Any, Any]:
    """A picture that bears a number."""
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[...] = number % 256, number // 256 % 256, number // 65536
    return rgb


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, of the command line or of the given words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=1000)
    parser.add_argument("--grid", type=int, default=37, help="patches per side")
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--method", choices=tuple(SETTINGS), default="patchcore")
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def with_references(given: argparse.Namespace) -> zsad.Inspector:
    """The inspector, when its references are chosen from."""
    detector = zsad.create(given.method, backbone=MadeUp(given.grid, given.channels), taps=(1,), **SETTINGS[given.method])
    references = [numbered(number) for number in range(given.references)]
    return zsad.Inspector(detector, references=references, coreset=given.coreset, device="cpu", batch="off")


def main() -> None:
    given = parsed()
    torch.set_num_threads(given.threads)
    start, before = time.perf_counter(), peak_mb()
    inspector = with_references(given)
    made, chosen, seconds = time.perf_counter() - start, peak_mb(), []
    start = time.perf_counter()
    inspector.known_thresholds()
    levels = time.perf_counter() - start
    for number in range(3):
        begun = time.perf_counter()
        list(inspector([numbered(100_000 + number)]))
        seconds.append(time.perf_counter() - begun)
    row: dict[str, Any] = {
        "references": given.references,
        "rows": given.references * given.grid**2,
        "rows_kept": sum(len(bank.rows) for bank in inspector.context.banks.values()),
        "seconds": made,
        "seconds_levels": levels,
        "seconds_per_picture": statistics.median(seconds),
        "peak_mb": chosen,
        "peak_mb_scored": peak_mb(),
        "peak_mb_before": before,
        "machine": f"{platform.machine()}, {given.threads} threads",
        "torch": torch.__version__,
    }
    print(json.dumps(row, indent=1) if given.json else "\n".join(f"{key:22} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
