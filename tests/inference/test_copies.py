"""Exact copies count once, and a scored picture that is a reference is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import zsad
from zsad.images.reading import digest_of, list_images, load_image
from zsad.inference.normal_pictures import without_copies
from zsad.inference.scorer import Scored


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rings, the eighth with a spot and three copies of it."""
    place = tmp_path_factory.mktemp("rings")
    for k in range(10):
        rng, image = np.random.default_rng(k), Image.new("RGB", (160, 120), (150, 150, 155))
        draw = ImageDraw.Draw(image)
        draw.ellipse((35 + k % 3, 15, 125 + k % 3, 105), fill=(190, 180, 120))
        if k == 7:
            draw.ellipse((100, 30, 115, 45), fill=(40, 10, 10))
        noisy = (np.asarray(image).astype(int) + rng.integers(-5, 6, (120, 160, 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(place / f"g{k}.png")
    for k in range(3):
        shutil.copy(place / "g7.png", place / f"z{k}.png")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 80])
def test_copies_are_not_compared_with_each_other(folder: Path, tile: int | None) -> None:
    found = {one.name: one for one in zsad.Inspector("musc", backbone="compact", tile=tile, rscin_k=())(folder)}
    assert {found[name].pred_score for name in ("z0.png", "z1.png", "z2.png")} == {found["g7.png"].pred_score}
    assert found["g7.png"].pred_score > max(
        one.pred_score for name, one in found.items() if name[0] == "g" and name != "g7.png"
    )
    assert [name for name, one in found.items() if any("exact copy of g7.png" in note for note in one.notes)] == [
        *("z0.png", "z1.png", "z2.png")
    ]


@pytest.mark.slow
def test_the_same_with_and_without_copies(folder: Path, tmp_path: Path) -> None:
    inspector = zsad.Inspector("musc", backbone="compact")
    plain = sorted(path for path in folder.iterdir() if path.name[0] == "g")
    alone, all_of_them = list(inspector(plain)), {one.name: one for one in inspector(folder)}
    assert [one.pred_score for one in alone] == pytest.approx([all_of_them[one.name].pred_score for one in alone], abs=1e-6)


@pytest.mark.slow
def test_a_scored_reference_is_named(folder: Path) -> None:
    files = [folder / "g0.png", folder / "g1.png"]
    inspector = zsad.Inspector("winclip", backbone="tiny", references=[files[0], folder / "g2.png"])
    found = list(inspector(files))
    assert [any("is a reference too" in note for note in one.notes) for one in found] == [True, False]
    assert [one.notes for one in inspector.rescore(inspector.encode(files))] == [one.notes for one in found]
    refs = list(list_images(files[0]))
    (alone,) = inspector.left_out(digest_of(load_image(refs[0]).rgb)).scored(refs)
    assert alone.notes == (), "it was not compared with itself"


def test_calibration_counts_a_copy_once() -> None:
    found = [
        Scored("a", None, digest="1"),
        Scored("b", None, digest="1"),
        Scored("c", None, error="x"),
        Scored("d", None, error="x"),
    ]
    assert [one.name for one in without_copies(found)] == ["a", "c", "d"]
