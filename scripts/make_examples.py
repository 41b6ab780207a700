"""Makes demo/examples: pictures selected by a rule. The solar cells were selected before any was scored.

    pip install elpv-dataset scikit-image && python scripts/make_examples.py

Solar cells (ELPV, CC BY-NC-SA 4.0): of the monocrystalline cells, in the order of their numbers, the first eight labelled 0
whose inactive area is below 0.5 %, and the first four labelled 1 whose inactive area is from 5 to 25 %. Inactive is what is
darker than half the cell's median brightness, without a border of 5 % and without the busbars (rows that are dark as a whole).

Brick (CC0): one photograph, twelve parts of 240 x 240 pixels on a grid, each with its own brightness; the third, fifth and
eighth get the first seeded defect of ``zsad.synthetic`` that is easy to see: it changes 2 to 10 % of the picture, by at
least 40 grey levels on average (a first rule without the 40 levels had made a stain that is hard to see; it ranked low).
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zsad.datasets import read_elpv
from zsad.synthetic.defects import make_defect

EXAMPLES = Path(__file__).resolve().parents[1] / "demo" / "examples"
KINDS = {2: "scratch", 4: "stain", 7: "hole"}  # part of the brick wall -> defect


def inactive(cell: np.ndarray[Any, Any]) -> float:
    """Share of the cell that is darker than half its median, borders and busbars left out."""
    border = round(0.05 * len(cell))
    inside = cell[border:-border, border:-border].astype(float)
    dark = inside < 0.5 * np.median(inside)
    busbar = np.median(inside, axis=1) < 0.8 * np.median(inside)
    return float(dark[~busbar].mean())


def solar_cells(folder: Path) -> list[dict[str, str]]:
    """Copies the chosen cells; returns one row per picture."""
    rows, wanted = [], {0: 8, 1: 4}
    for record in read_elpv("mono"):
        if record.probability not in (0, 1) or not wanted[record.label]:
            continue
        share = inactive(np.asarray(Image.open(record.path).convert("L")))
        if (record.label == 0 and share < 0.005) or (record.label == 1 and 0.05 <= share <= 0.25):
            wanted[record.label] -= 1
            shutil.copyfile(record.path, folder / record.path.name)
            kind = "defective" if record.label else "normal"
            rows.append({"file": record.path.name, "label": kind, "how": f"ELPV, inactive area {share:.1%}"})
    return rows


def brick(folder: Path) -> list[dict[str, str]]:
    """Cuts the photograph and makes the defects; returns one row per picture."""
    import skimage.data

    wall, rows = skimage.data.brick(), []
    corners = [(top, left) for top in (0, 136, 272) for left in (0, 90, 181, 272)]
    for number, (top, left) in enumerate(corners):
        rng = np.random.default_rng(number)
        part = wall[top : top + 240, left : left + 240] * rng.uniform(0.9, 1.1) + rng.uniform(-8, 8)
        rgb = np.repeat(np.clip(part, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        row = {"file": f"brick-{number + 1:02}.png", "label": "normal", "how": "photograph, CC0"}
        if number in KINDS:
            while True:
                made, mask, word = make_defect(rgb, rng, KINDS[number])
                change = np.abs(made.astype(int) - rgb)[mask > 0]
                if 0.02 <= mask.mean() <= 0.1 and change.mean() >= 40:
                    break
            rgb, row = made, row | {"label": "defective", "how": f"photograph, CC0; {word} made by zsad.synthetic.defects"}
        Image.fromarray(rgb).save(folder / row["file"], optimize=True)
        rows.append(row)
    return rows


def main() -> None:
    for name, make in (("solar-cells", solar_cells), ("brick", brick)):
        folder = EXAMPLES / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file", "label", "how"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(make(folder), key=lambda row: row["file"]))


if __name__ == "__main__":
    main()
