"""LabelMe annotations to masks and a manifest (``scripts/labelme_masks.py``), on a tree made by hand."""

from __future__ import annotations

import csv
import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.datasets import load_mask, open_dataset

SCRIPT = Path(__file__).parents[2] / "scripts" / "labelme_masks.py"
TRIANGLE = {"label": "pit", "shape_type": "polygon", "points": [[10, 10], [20, 10], [10, 20]]}
BOX = {"label": "scratch", "shape_type": "rectangle", "points": [[40, 30], [30, 5]]}  # corners in any order
DISC = {"label": "pit", "shape_type": "circle", "points": [[20, 20], [20, 26]]}


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As the command line does, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(SCRIPT), str(root), *words])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def annotate(file: Path, shapes: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"version": "4.5.6", "shapes": shapes, "imagePath": "x.jpg", "imageData": None}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a_1", "a_2", "b_1", "b_2", "b_3", "more/a_1"):
        path = tmp_path / "set" / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (90, 90, 90)).save(path)
    annotate(tmp_path / "set/label/a_1.json", [TRIANGLE, BOX])
    annotate(tmp_path / "set/label/more/a_1.json", [DISC])
    annotate(tmp_path / "set/label/a_2.json", [])
    return tmp_path / "set"


def rows(root: Path) -> dict[str, dict[str, str]]:
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_shapes_become_masks_and_labels(root: Path) -> None:
    done = run(root, "--pictures", "data", "--labels", "label", "--normal", "b_[12].png", "--category", "*a_*=left")
    assert done.returncode == 0, done.stderr
    assert "3 normal, 2 anomalous pictures; 1 left out." in done.stdout  # b_3 was not annotated
    found = rows(root)
    assert {path: (row["label"], row["category"], row["kind"]) for path, row in found.items()} == {
        "data/a_1.png": ("1", "left", "pit+scratch"),
        "data/a_2.png": ("0", "left", "good"),  # annotated, without a shape
        "data/b_1.png": ("0", "set", "good"),
        "data/b_2.png": ("0", "set", "good"),
        "data/more/a_1.png": ("1", "left", "pit"),
    }
    opened = open_dataset(root)
    assert opened.layout == "manifest"
    assert opened.problems == ("data: 1 pictures are not listed, the first is b_3.png.",)
    masks = {opened.name_of(sample): load_mask(sample, picture=(40, 60)) for sample in opened if sample.label}
    y, x = np.mgrid[:40, :60]
    wanted = ((x >= 10) & (y >= 10) & (x + y <= 30)) | ((x >= 30) & (x <= 40) & (y >= 5) & (y <= 30))
    assert np.array_equal(masks["data/a_1.png"], wanted)
    disc = masks["data/more/a_1.png"]
    assert disc.sum() == pytest.approx(np.pi * 6.5**2, rel=0.05)  # the rim's pixels belong to it
    assert np.argwhere(disc).mean(0).tolist() == [20, 20]


def test_masks_are_no_pictures_the_second_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"{name}.png")
    annotate(tmp_path / "a.json", [TRIANGLE])
    first, second = run(tmp_path, "--normal", "*.png"), run(tmp_path, "--normal", "*.png")
    assert first.stdout == second.stdout
    assert set(rows(tmp_path)) == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"shapes": [{"label": "pit", "shape_type": "line", "points": [[1, 1], [5, 5]]}]}), "no area"),
        (json.dumps({"shapes": [{"label": "pit", "points": [[100, 100], [110, 100], [100, 110]]}]}), "inside the picture"),
        (json.dumps({"flags": {}}), "'shapes'"),
        ("{", "JSONDecodeError"),
    ],
)
def test_what_cannot_be_drawn_is_left_out_with_a_message(root: Path, text: str, message: str) -> None:
    (root / "label/a_1.json").write_text(text)
    done = run(root, "--pictures", "data", "--labels", "label", "--normal", "*")
    assert done.returncode == 0
    assert "a_1.png: left out." in done.stderr
    assert message in done.stderr
    assert "data/a_1.png" not in rows(root)
    assert len(rows(root)) == 5


def test_a_picture_with_an_orientation_has_an_upright_mask(root: Path) -> None:
    image, exif = Image.new("RGB", (60, 40)), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(root / "data/t.jpg", exif=exif)
    annotate(root / "label/t.json", [TRIANGLE])
    run(root, "--pictures", "data", "--labels", "label")
    with Image.open(root / "masks/t.png") as mask:
        assert mask.size == (40, 60)


def test_wrong_usage(root: Path) -> None:
    for words, message in ((["--category", "left"], "PATTERN=NAME"), (["--labels", "none"], "there is no folder")):
        done = run(root, *words)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert "--normal" in run(root, "--help").stdout
