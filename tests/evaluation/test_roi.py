"""``evaluate`` with a region of interest: pixels outside of it are not scored and count nowhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from brightness import SIDE, registered_methods  # noqa: F401
from noisy_set import CATEGORIES, write_noisy_set
from PIL import Image

import zsad
from zsad.metrics import PixelMetrics


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[zsad.Evaluation, Path, Path]:
    """The left half of every picture; of five defects per category, two lie to the right of it and one across."""
    place = tmp_path_factory.mktemp("roi")
    root = write_noisy_set(place / "parts")
    for path in root.rglob("test/crack/003.png"):
        _move(path, 44)
    for path in root.rglob("test/crack/004.png"):
        _move(path, 24)
    metrics = ["image_auroc", "pixel_auroc", "aupro", "aupro_legacy"]
    return (
        zsad.evaluate("brightness", root, out=place / "out", roi=(0, 0, 32, 64), metrics=metrics, keep_maps=True),
        root,
        place / "out" / "maps",
    )


def _move(path: Path, left: int) -> None:
    mask = path.parents[2] / "ground_truth" / "crack" / f"{path.stem}_mask.png"
    grey = np.zeros((64, 64), np.uint8)
    grey[10:26, left : left + 14] = 255
    Image.fromarray(grey).save(mask)


def test_pixel_metrics_are_those_of_the_region(found: tuple[zsad.Evaluation, Path, Path]) -> None:
    from sklearn.metrics import roc_auc_score

    evaluation, root, maps = found
    for row in evaluation.rows:
        scores, truths = [], []
        for file in sorted((maps / row.category).rglob("*.npy")):
            values = np.load(file)
            assert values.shape == (SIDE, SIDE)
            assert np.isnan(values[:, SIDE // 2 :]).all()
            assert np.isfinite(values[:, : SIDE // 2]).all()
            truth = np.zeros((SIDE, SIDE), bool)
            if "crack" in file.parts:
                grey = Image.open(root / row.category / "ground_truth/crack" / f"{file.stem}_mask.png")
                truth = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) > 127
            scores.append(values[:, : SIDE // 2].ravel())
            truths.append(truth[:, : SIDE // 2].ravel())
        expected = roc_auc_score(np.concatenate(truths), np.concatenate(scores))
        assert row.values["pixel_auroc"] == pytest.approx(expected, abs=1e-3)
        assert 0 < row.values["aupro"] < 1


def test_what_lies_outside_is_counted_apart(found: tuple[zsad.Evaluation, Path, Path]) -> None:
    for row in found[0].rows:
        (text,) = [note for note in row.notes if "Outside of the region of interest" in note]
        assert "lie all defects of 1 pictures and a part of those of 1 more" in text
        assert np.isnan(row.values["aupro_legacy"])
        assert any("AUPRO (legacy) knows no region of interest" in note for note in row.notes)
    assert {row.category for row in found[0].rows} == set(CATEGORIES)


@pytest.mark.filterwarnings("ignore:AUPIMO's bound")
@pytest.mark.parametrize("exact", [False, True])
def test_unscored_pixels_change_no_metric(exact: bool) -> None:
    """A frame of pixels that nobody scored, with a defect in it, gives the metrics without it."""
    rng = np.random.default_rng(0)
    plain, framed = (PixelMetrics(exact=exact, bounds=(1e-2, 1e-1)) for _ in range(2))
    for number in range(4):
        values, mask = rng.random((12, 12)).astype(np.float32), np.zeros((12, 12), bool)
        mask[2:5, 3:7] = number > 1
        plain.update(values, mask)
        big, truth, scored = np.full((16, 16), np.nan, np.float32), np.ones((16, 16), bool), np.zeros((16, 16), bool)
        big[2:14, 2:14], truth[2:14, 2:14], scored[2:14, 2:14] = values, mask, True
        truth[:2] = number > 1
        framed.update(big, truth, scored)
    one, other = plain.result(), framed.result()
    assert (one.auroc, one.average_precision, one.f1_max, one.aupro) == (
        other.auroc, other.average_precision, other.f1_max, other.aupro
    )  # fmt: skip
    assert one.regions == other.regions == 2
