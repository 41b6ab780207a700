"""A method on folders of real pictures: by itself, with references, as a folder; pixels; and the verdicts of ``zsad predict``.

    python benchmarks/real_pictures.py DIR
    python benchmarks/real_pictures.py DIR --method winclip --sets capsule,pill --json figures.json

DIR holds one folder per set: ``good/``, ``bad/<kind>/`` and, where places are known, ``masks/<kind>/`` (or ``boxes/<kind>/``)
with a file of the same stem, white where the defect is; ``about.json`` may name the ``object``. Everything goes through the
public interface. Image AUROC: references are drawn anew in every draw and are not tested on. Pixels: maps and masks at 128 x
128, over the anomalous pictures with masks. Verdicts: folders of some sizes with some share of anomalous pictures, decided as
``zsad predict`` does by default; recall counts "anomalous" and "review", and false alarms are normal pictures called either.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import zsad
from zsad.decision.thresholds import NORMAL, decide
from zsad.inference.scorer import Scored
from zsad.inference.verdict import scores_and_peaks
from zsad.metrics import aupro, image_auroc

SIDE = 128  # pixels of maps and masks
COVERED = 96  # grey value of a reduced mask from which on a pixel is defective
COUNTS = (1, 4, 16)
SIZES, SHARES = (8, 30, 120), (0.05, 0.1, 0.2, 0.5, 0.9)
TENTH = 0.1  # share of anomalous pictures that a factory would call many
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Pictures:
    """One set."""

    name: str
    target: str
    paths: list[Path]
    bad: np.ndarray[Any, np.dtype[np.bool_]]
    masks: dict[int, np.ndarray[Any, np.dtype[np.bool_]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Pictures:
        """A set's pictures, normal ones first, and its masks."""
        good = sorted(path for path in (folder / "good").glob("*") if path.is_file())
        bad = sorted(path for path in (folder / "bad").rglob("*") if path.is_file())
        about = json.loads((folder / "about.json").read_text()) if (folder / "about.json").is_file() else {}
        found = cls(folder.name, about.get("object", "object"), good + bad, np.array([False] * len(good) + [True] * len(bad)))
        for number, path in enumerate(bad, len(good)):
            inside = path.relative_to(folder / "bad").with_suffix(".png")
            for kind in ("masks", "boxes"):
                if (file := folder / kind / inside).is_file():
                    small = Image.open(file).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
                    found.masks[number] = np.asarray(small) > COVERED
        return found

    def drawn(self, size: int, share: float, draw: int) -> list[int] | None:
        """Numbers of ``size`` pictures with that share of anomalous ones, one at least; None where there are too few."""
        wanted = max(1, round(size * share))
        good, bad = np.flatnonzero(~self.bad).tolist(), np.flatnonzero(self.bad).tolist()
        if wanted > len(bad) or size - wanted > len(good) or size == wanted:
            return None
        chooser = random.Random(draw)
        return chooser.sample(good, size - wanted) + chooser.sample(bad, wanted)


def scores_of(found: Sequence[Scored]) -> Floats:
    """Scores; an error ends the run, since a benchmark may leave nothing out."""
    for one in found:
        if one.score is None:
            raise SystemExit(f"{one.path}: {one.error}")
    return np.array([one.score for one in found], dtype=np.float64)


def auroc(pictures: Pictures, scores: Floats, numbers: Sequence[int]) -> float:
    """Image AUROC of some pictures; NaN where all are normal or all are anomalous."""
    bad = pictures.bad[list(numbers)]
    return float(image_auroc(scores, bad)) if 0 < bad.sum() < len(bad) else float("nan")


def pixels(pictures: Pictures, found: Sequence[Scored]) -> dict[str, float]:
    """Pixel AUROC pooled over the set and within each picture, and AUPRO; {} where no place is known."""
    maps, masks = [], []
    for number, mask in pictures.masks.items():
        model_map = found[number].model_map
        if model_map is not None and 0 < mask.sum() < mask.size:
            maps.append(np.asarray(Image.fromarray(model_map).resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
            masks.append(mask)
    if not maps:
        return {}
    pooled = image_auroc(np.concatenate([one.ravel() for one in maps]), np.concatenate([one.ravel() for one in masks]))
    within = [image_auroc(one.ravel(), mask.ravel()) for one, mask in zip(maps, masks, strict=True)]
    return {"pooled": float(pooled), "within": float(np.mean(within)), "aupro": float(aupro(np.stack(maps), np.stack(masks)))}


def verdicts(scored: Sequence[Scored], bad: np.ndarray[Any, Any], inspector: zsad.Inspector) -> tuple[float, float]:
    """Recall and false alarms of a folder that is decided as ``zsad predict`` decides it; (0, 0) where there is no rule."""
    scores = scores_of(scored)
    levels = decide(*scores_and_peaks(scored), inspector.known_thresholds(), inspector.far_score)
    flagged = np.array([levels.label(score) not in (NORMAL, None) for score in scores])
    return float(flagged[bad].mean()) if bad.any() else float("nan"), float(flagged[~bad].mean())


def measure(pictures: Pictures, method: str, draws: int, only_references: bool = False) -> dict[str, Any]:
    """All figures of one set, or those of each picture by itself and with references."""
    default = zsad.Inspector(method, target=pictures.target)
    alone = default.alone()
    begun, everything = time.perf_counter(), range(len(pictures.paths))
    encoded = default.encode(pictures.paths)
    seconds = time.perf_counter() - begun
    row: dict[str, Any] = {"normal": int((~pictures.bad).sum()), "anomalous": int(pictures.bad.sum()), "verdicts": []}
    for count in COUNTS if row["normal"] else ():
        row |= references(pictures, default, encoded, count, draws)
    by_itself = list(alone.answers(encoded))
    row["itself"] = auroc(pictures, scores_of(by_itself), everything)
    if only_references:
        return row
    as_folder = list(default.answers(encoded))
    row["folder"] = auroc(pictures, scores_of(as_folder), everything)
    for name, found in (("itself", by_itself), ("folder", as_folder)):
        row |= {f"pixel {key}, {name}": value for key, value in pixels(pictures, found).items()}
    tenth = []
    for draw in range(draws):
        size = round(row["normal"] / (1 - TENTH))
        if row["normal"] and (numbers := pictures.drawn(size, TENTH, draw)):
            tenth.append(auroc(pictures, scores_of(list(default.answers(encoded.only(numbers)))), numbers))
    row["folder, 10 %"], row["folder, 10 %, std"] = _mean_and_std(tenth)
    row["verdicts"] = [one for size in SIZES for one in folders(pictures, default, encoded, size, draws)]
    row["pictures per second, encoding"] = len(pictures.paths) / seconds
    return row


def references(pictures: Pictures, default: zsad.Inspector, encoded: Any, count: int, draws: int) -> dict[str, float]:
    """With references and no calibration: AUROC, and the verdicts that they give; with the folder, where that joins."""
    good = np.flatnonzero(~pictures.bad).tolist()
    if len(good) < count + 4:
        return {}
    found, joined, decided = [], [], []
    for draw in range(draws):
        chosen = set(random.Random(draw).sample(good, count))
        few = default.fork()
        few.add_references([pictures.paths[number] for number in sorted(chosen)])
        kept = [number for number in range(len(pictures.paths)) if number not in chosen]
        scored = list(few.alone().answers(encoded.only(kept)))
        found.append(auroc(pictures, scores_of(scored), kept))
        decided.append(verdicts(scored, pictures.bad[kept], few))
        if few.over(len(kept)).needs_set:
            joined.append(auroc(pictures, scores_of(list(few.answers(encoded.only(kept)))), kept))
    recall, alarms = (float(np.mean(values)) for values in zip(*decided, strict=True))
    mean, std = _mean_and_std(found)
    name = f"{count} references"
    row = {name: mean, f"{name}, std": std, f"{name}, recall": recall, f"{name}, false alarms": alarms}
    if joined:
        row[f"{name}, folder"], row[f"{name}, folder, std"] = _mean_and_std(joined)
    return row


def folders(pictures: Pictures, default: zsad.Inspector, encoded: Any, size: int, draws: int) -> Iterable[dict[str, float]]:
    """Verdicts on folders of one size, a row per share of anomalous pictures."""
    for share in SHARES:
        found = []
        for draw in range(draws):
            if numbers := pictures.drawn(size, share, draw):
                scored = list(default.answers(encoded.only(numbers)))
                found.append(verdicts(scored, pictures.bad[numbers], default))
        if found:
            recall, alarms = (float(np.mean(values)) for values in zip(*found, strict=True))
            yield {"size": size, "share": share, "recall": recall, "false alarms": alarms}


def _mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    return (float(np.mean(values)), float(np.std(values))) if values else (float("nan"), float("nan"))


# ------------------------------------------------------------------ tables
def print_tables(rows: dict[str, dict[str, Any]]) -> None:
    """Image AUROC, pixels, verdicts with references, and verdicts by size and share."""
    counts = [f"{count} references" for count in COUNTS]
    with_folder = [key for key in (f"{one}, folder" for one in counts) if any(key in row for row in rows.values())]
    _table("image AUROC", rows, ["itself", *counts, *with_folder, "folder", "folder, 10 %"])
    parts = [f"pixel {key}, {name}" for name in ("itself", "folder") for key in ("pooled", "within", "aupro")]
    _table("pixels", rows, parts)
    _table("verdicts", rows, [f"{count}, {what}" for count in counts for what in ("recall", "false alarms")])
    print("\n| folder | " + " | ".join(f"{share:.0%} anomalous" for share in SHARES) + " |\n|---" + "|---" * len(SHARES) + "|")
    for size in SIZES:
        cells = []
        for share in SHARES:
            own = [one for row in rows.values() for one in row["verdicts"] if (one["size"], one["share"]) == (size, share)]
            values = [float(np.mean([one[key] for one in own])) if own else float("nan") for key in ("recall", "false alarms")]
            cells.append(f"{values[0]:.2f}, {values[1]:.2f} ({len(own)} sets)")
        print(f"| {size} pictures: recall, false alarms | " + " | ".join(cells) + " |")


def _table(title: str, rows: dict[str, dict[str, Any]], keys: Sequence[str]) -> None:
    print(f"\n| {title} | " + " | ".join(keys) + " |\n|---" + "|---" * len(keys) + "|")
    for name, row in rows.items():
        cells = [_cell(row, key) for key in keys]
        print(f"| {name} | " + " | ".join(cells) + " |")
    # sets without normal pictures have no AUROC; the means are over the others
    values = {key: [row[key] for row in rows.values() if key in row and not np.isnan(row[key])] for key in keys}
    print("| **mean** | " + " | ".join(f"{np.mean(values[key]):.3f}" if values[key] else "-" for key in keys) + " |")


def _cell(row: dict[str, Any], key: str) -> str:
    if np.isnan(row.get(key, np.nan)):
        return "-"
    return f"{row[key]:.3f}" + (f" ± {row[f'{key}, std']:.3f}" if f"{key}, std" in row else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="compact")
    parser.add_argument("--sets", help="only these, with commas between")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--only-references", action="store_true", help="each picture by itself and with references, no more")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = given.sets.split(",") if given.sets else sorted(p.name for p in given.folder.iterdir() if (p / "bad").is_dir())
    rows = {}
    for name in tqdm(names, disable=None):
        rows[name] = measure(Pictures.read(given.folder / name), given.method, given.draws, given.only_references)
    print_tables(rows)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"\n{given.method}, {given.draws} draws, {machine}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
