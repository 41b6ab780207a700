"""A folder of pictures through the inspector: pictures per second with decoding, and resident memory as it goes.

    python benchmarks/folder.py                          # 1,000 made JPEGs of 640 x 480, compared with each other
    python benchmarks/folder.py --batch off              # each by itself
    python benchmarks/folder.py --folder photos/ --method winclip

Memory after the first 100 pictures and at the end should be alike: nothing may be kept of a scored picture.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from tqdm import tqdm

import zsad
from zsad.images.reading import list_images
from zsad.synthetic.defects import smooth_noise


def make_pictures(folder: Path, count: int) -> None:
    """Seeded JPEGs of a mottled surface, 640 x 480."""
    for number in range(count):
        rng = np.random.default_rng(number)
        grey = 128 + 25 * smooth_noise(rng, (480, 640), 12, 3)
        Image.fromarray(np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)).save(
            folder / f"{number:05}.jpg"
        )


def measure(folder: Path, full: bool, **settings: Any) -> dict[str, object]:
    """Runs the whole folder once; ``full`` makes results at original size, else scores and maps at model size."""
    refs = list(list_images(folder))
    inspector = zsad.Inspector(**settings).over(len(refs))
    process, memory = psutil.Process(), {}
    stream = inspector(folder) if full else inspector.scored(refs)
    done, begun = 0, time.perf_counter()
    for _ in tqdm(stream, disable=None):
        done += 1
        if done == 100:
            memory["resident_mb_after_100"] = process.memory_info().rss / 1e6
    seconds = time.perf_counter() - begun
    memory["resident_mb_at_the_end"] = process.memory_info().rss / 1e6
    rate = {"pictures_per_second": done / seconds}
    return settings | {"compared with each other": inspector.needs_set, "pictures": done} | rate | memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="made pictures, where no folder is given")
    parser.add_argument("--method", default="compact")
    parser.add_argument("--backbone")
    parser.add_argument("--batch", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--tower", choices=("both", "small"), help="of compact")
    parser.add_argument("--results", action="store_true", help="maps at original size too, as iterating the inspector does")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if given.folder is None:
            make_pictures(Path(made), given.count)
        settings = {"method": given.method, "backbone": given.backbone, "batch": given.batch}
        settings |= {"tower": given.tower} if given.tower else {}
        found = measure(given.folder or Path(made), given.results, **settings)
    found |= {
        "data": str(given.folder or "made, 640 x 480 JPEG"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    found |= {"torch": torch.__version__, "python": platform.python_version()}
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            "\n".join(
                f"{key:28} {value:.1f}" if isinstance(value, float) else f"{key:28} {value}" for key, value in found.items()
            )
        )


if __name__ == "__main__":
    main()
