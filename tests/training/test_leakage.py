"""``zsad.evaluate`` refuses the training data of ``zsad.train``: one writes the header that the other reads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from annotated import write_set
from PIL import Image
from tiny_training import tiny

import zsad
from zsad.datasets import open_dataset
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.evaluation import leakage
from zsad.evaluation.leakage import learned_from, records_of
from zsad.weights.checkpoints import load_index


def trained(root: Path, out: Path, categories: str) -> Detector:
    """On some categories of a set, for one epoch."""
    detector = tiny("april_gan")
    zsad.train(detector, open_dataset(root).select(categories), out, epochs=1)
    return detector


def evaluated(detector: Detector, root: Path, categories: str) -> str:
    """The remark on leakage; "" for none."""
    return zsad.evaluate(detector, root, categories=categories, metrics=["image_auroc"], allow_leakage=True).leakage


@pytest.mark.slow
def test_pictures_of_a_run_are_known_again_under_any_name(tmp_path: Path) -> None:
    root = write_set(tmp_path / "parts")
    detector = trained(root, tmp_path / "run", "nut")
    with pytest.raises(UsageError, match=r"april_gan learned from 8 of the 8 pictures of 'parts': nut/test/defect/000\.png"):
        zsad.evaluate(detector, root, categories="nut")
    assert evaluated(detector, root, "tile") == ""
    other = tmp_path / "others/bolt/test/good"
    write_set(tmp_path / "others", ("bolt",), seed=5)
    shutil.copy(root / "nut/test/good/002.png", other / "renamed.png")
    assert "learned from 1 of the 9 pictures of 'others': bolt/test/good/renamed.png" in evaluated(
        detector, tmp_path / "others", "bolt"
    )


@pytest.mark.slow
def test_weights_that_are_loaded_again_remember(tmp_path: Path) -> None:
    root = write_set(tmp_path / "parts")
    trained(root, tmp_path / "run", "nut")
    again = tiny("april_gan")
    again.load(tmp_path / "run/final.safetensors")
    assert "learned from 8 of the 8 pictures" in evaluated(again, root, "nut")
    assert learned_from(again) == ["parts (nut)"]
    assert [(one.name, one.categories, len(one.hashes)) for one in records_of(again.header)] == [("parts", {"nut"}, 8)]


@pytest.mark.slow
def test_weights_that_go_on_learning_remember_what_they_learned_before(tmp_path: Path) -> None:
    root = write_set(tmp_path / "parts")
    trained(root, tmp_path / "run", "nut")
    again = tiny("april_gan")
    again.load(tmp_path / "run/final.safetensors")
    digest = again.weights_sha256
    zsad.train(again, open_dataset(root).select("tile"), tmp_path / "further", epochs=1)
    assert again.header["trained_on"] == "parts (tile); before that: parts (nut)"
    assert again.header["went_on_from"] == {"trained_on": "parts (nut)", "licence": "not stated", "sha256": digest}
    for category in ("nut", "tile"):
        assert "learned from 8 of the 8 pictures" in evaluated(again, root, category)


def test_published_weights_are_known_after_more_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny("april_gan")
    detector.weights_sha256 = "0" * 64  # of a file without a header that the index knows
    row = replace(next(iter(load_index().values())), sha256="0" * 64, trained_on="VisA, test split")
    monkeypatch.setattr(leakage, "load_index", lambda: {row.name: row})
    zsad.train(detector, write_set(tmp_path / "parts"), tmp_path / "run", epochs=1)
    assert learned_from(detector) == ["parts (nut, tile); before that: not stated", "VisA, test split"]


def test_the_name_of_a_set_speaks_for_the_categories_beside_it(tmp_path: Path) -> None:
    root = write_set(tmp_path / "visa")
    detector = trained(root, tmp_path / "run", "nut")
    assert evaluated(detector, root, "tile") == ""  # another category of the same set is what fine-tuning is for
    for path in (root / "nut").rglob("*.png"):  # other files, the same pictures
        with Image.open(path) as image:
            image.load()
        image.save(path, compress_level=0)
    assert evaluated(detector, root, "nut") == "april_gan learned from 'visa (nut)', and 'visa' is VisA."


def test_a_header_of_another_origin_has_no_records() -> None:
    assert records_of({}) == []
    assert records_of({"data": "VisA", "trained_on": "VisA"}) == []
    assert records_of({"data": ["VisA", {"name": "own"}]})[0].hashes == frozenset()
