"""Methods that use a few normal pictures, or the folder itself, side by side on real pictures and one tower.

    python benchmarks/few_shot.py DIR --backbone compact-vit
    python benchmarks/few_shot.py DIR --backbone compact --method patchcore --counts 1,4

DIR as for ``real_pictures.py``. Image AUROC per set, then the mean over sets: references are drawn anew in every draw and are
not tested on (sets with too few normal pictures for the largest count are left out there); "batch" compares the pictures of the
whole set with each other. Every method runs on the given tower; ``compact`` on its own two. Methods with learned weights are
left out: there are none for these towers. Seconds are for 100 pictures with decoding, at the largest count of references;
memory is the peak of a method's whole run, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak_mb
from real_pictures import Pictures, auroc, scores_of

import zsad

METHODS = ("compact", "patchcore", "subspacead", "musc")
SETTINGS: dict[str, dict[str, Any]] = {  # on small towers; turned copies take 31 passes of the encoder each
    "subspacead": {"rotations": 0},
    "musc": {"rscin_k": (), "pool": 64},
}


def inspector_of(method: str, backbone: str, **more: Any) -> Any:
    """An inspector on the tower; ``compact`` on its own."""
    tower = {} if method == "compact" else {"backbone": zsad.load_backbone(backbone)}
    return zsad.Inspector(method, **tower, **SETTINGS.get(method, {}), **more)


def measured(method: str, backbone: str, folder: Path, counts: list[int], draws: int) -> dict[str, Any]:
    """Mean AUROC over the sets by number of references and for the batch, and the time of 100 pictures."""
    found: dict[str, list[float]] = {}
    spent, seen, alone = 0.0, 0, inspector_of(method, backbone, batch="off")
    for path in sorted(one for one in folder.iterdir() if (one / "good").is_dir()):
        pictures = Pictures.read(path)
        normal, every = np.flatnonzero(~pictures.bad).tolist(), list(range(len(pictures.paths)))
        start = time.perf_counter()
        encoded = alone.encode(pictures.paths)
        encoding = (time.perf_counter() - start) / len(every)
        compared = alone.detector.as_batch(alone.context) or (alone.detector if alone.needs_set else None)
        if compared is not None and len(every) >= compared.smallest_set:
            whole = copy(alone)
            whole.detector = compared
            found.setdefault("batch", []).append(auroc(pictures, scores_of(list(whole.answers(encoded))), every))
        for count in counts if len(normal) > max(counts) + 4 and method != "musc" else ():
            values = []
            for draw in range(draws):
                chosen = random.Random(draw).sample(normal, count)
                kept = [number for number in every if number not in chosen]
                few = alone.fork()
                few.add_references([pictures.paths[number] for number in chosen])
                start = time.perf_counter()
                values.append(auroc(pictures, scores_of(list(few.answers(encoded.only(kept)))), kept))
                if count == max(counts):
                    spent, seen = spent + time.perf_counter() - start + encoding * len(kept), seen + len(kept)
            found.setdefault(str(count), []).append(float(np.mean(values)))
    means = {key: round(float(np.mean(values)), 4) for key, values in found.items()}
    sets = {key: len(values) for key, values in found.items()}
    return {
        "method": method,
        "auroc": means,
        "sets": sets,
        "seconds": 100 * spent / seen if seen else None,
        "peak_mb": peak_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="compact-vit")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--counts", default="1,4,16")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    counts = [int(one) for one in given.counts.split(",")]
    if given.only:
        print(json.dumps(measured(given.only, given.backbone, given.folder, counts, given.draws)))
        return
    print("| method | " + " | ".join(f"{count} references" for count in counts) + " | batch | s per 100 | peak MB |")
    print("|---|" + "---|" * (len(counts) + 3))
    for method in given.method or METHODS:
        words = [sys.executable, __file__, str(given.folder), "--only", method, "--backbone", given.backbone]
        words += ["--counts", given.counts, "--draws", str(given.draws), "--threads", str(given.threads)]
        row = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
        cells = [f"{row['auroc'][key]:.3f}" if key in row["auroc"] else "-" for key in (*map(str, counts), "batch")]
        took = f"{row['seconds']:.1f}" if row["seconds"] else "-"
        print(f"| {method} | {' | '.join(cells)} | {took} | {row['peak_mb']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
