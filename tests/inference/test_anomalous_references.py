"""Anomalous references with masks: from folders and arrays, saved, read back, taken out, refused where they are of no use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad import Inspector
from zsad.cli import app
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.inference.reference_set import ReferenceSet
from zsad.references.memory_bank import banks_of_sign
from zsad.types import Bank, Context, ImageFeatures, Prediction, Recipe, References

SIDE = 80


class Shown(Detector):
    """Scores by the cosine with the nearest anomalous patch less that with the nearest normal one."""

    name = "shown"
    recipe = Recipe("tiny", SIDE, taps=(12,), depth=12)
    takes_anomalous = True

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        return Context(banks=self.banks(references))

    def encode(self, images: torch.Tensor) -> ImageFeatures:
        return self.backbone.encode_image(images, (12,))  # type: ignore[no-any-return]

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        rows = torch.nn.functional.normalize(features.taps[12].patches, dim=-1)

        def nearest(bank: Bank | None) -> torch.Tensor:
            if bank is None:
                return torch.zeros(rows.shape[:2])
            return (rows @ torch.nn.functional.normalize(bank.rows, dim=-1).T).amax(dim=-1)

        normal, bad = (banks_of_sign(context.banks, sign).get("12") for sign in (1, -1))
        maps = (nearest(bad) - nearest(normal)).unflatten(1, features.taps[12].grid)
        grown = torch.nn.functional.interpolate(maps[:, None], size=SIDE)[:, 0]
        return Prediction(grown.amax(dim=(1, 2)), grown)


@pytest.fixture(scope="module")
def detector() -> Any:
    return Shown(zsad.load_backbone("tiny", image_size=SIDE)).eval()


def picture(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def corner() -> np.ndarray[Any, Any]:
    """The upper left patch of 25."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:16, :16] = 255
    return mask


def write(folder: Path, **files: np.ndarray[Any, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in files.items():
        Image.fromarray(values).save(folder / f"{name}.png")
    return folder


def test_rows_under_the_mask_are_the_bank(detector: Any, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad", a=picture(1), b=picture(2))
    masks = write(tmp_path / "masks", a_mask=corner(), b=corner())
    inspector = Inspector(detector, references=[picture(3)], anomalous=bad, anomalous_masks=masks)
    banks = inspector.context.banks
    assert {key: (len(bank.rows), bank.sign) for key, bank in banks.items()} == {"12": (25, 1), "12 anomalous": (2, -1)}
    assert banks["12 anomalous"].source.tolist() == [1, 2]
    assert inspector.describe()["references"]["anomalous"]["count"] == 2
    by_hand = detector.encode(detector.backbone.preprocess(picture(1))[None]).taps[12].patches[0, 0]
    assert any(torch.allclose(row, by_hand, atol=1e-5) for row in banks["12 anomalous"].rows)
    arrays = Inspector(detector, references=[picture(3)], anomalous=[picture(1), picture(2)], anomalous_masks=[corner()] * 2)
    assert [one.pred_score for one in arrays([picture(1)])] == [one.pred_score for one in inspector([picture(1)])]
    whole = Inspector(detector, references=[picture(3)], anomalous=bad)
    assert len(whole.context.banks["12 anomalous"].rows) == 50


def test_saved_read_back_and_taken_out(detector: Any, tmp_path: Path) -> None:
    inspector = Inspector(detector, references=[picture(3)], anomalous=[picture(1)], anomalous_masks=[corner()])
    before = [one.pred_score for one in inspector([picture(1), picture(5)])]
    inspector.save_references(tmp_path / "refs")
    index = json.loads((tmp_path / "refs/references.json").read_text())
    assert index["format"] == "zsad references 2"
    again = Inspector(detector, references=tmp_path / "refs")
    assert [one.pred_score for one in again([picture(1), picture(5)])] == before
    forked = again.fork()
    forked.remove_references(*forked.references.anomalous_names)
    assert forked.context.banks.keys() == {"12"}
    assert again.context.banks.keys() == {"12", "12 anomalous"}
    forked.save_references(tmp_path / "normal")
    assert json.loads((tmp_path / "normal/references.json").read_text())["format"] == "zsad references 1", (
        "older versions read it"
    )
    assert len(ReferenceSet.load(tmp_path / "normal")) == 1


def test_leaving_a_normal_one_out_keeps_the_anomalous(detector: Any) -> None:
    references = [picture(seed) for seed in (3, 4)]
    inspector = Inspector(detector, references=references, anomalous=[picture(1)], anomalous_masks=[corner()])
    left = inspector.left_out(sorted(inspector.references.digests)[0])
    assert left.context.banks["12"].source.unique().tolist() == [0]
    assert left.context.banks["12 anomalous"].source.tolist() == [1]
    assert len(inspector.references) == 2


def test_what_is_of_no_use_is_refused(detector: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="winclip takes normal references only; leave the anomalous ones out"):
        Inspector(zsad.create("winclip", backbone="tiny"), anomalous=[picture(1)])
    with pytest.raises(UsageError, match="Masks of anomalous references were given without the pictures"):
        Inspector(detector, anomalous_masks=[corner()])
    with pytest.raises(UsageError, match="1 masks were given for 2 anomalous references"):
        Inspector(detector, anomalous=[picture(1), picture(2)], anomalous_masks=[corner()])
    bad, masks = write(tmp_path / "bad", a=picture(1), b=picture(2)), write(tmp_path / "masks", a=corner())
    with pytest.raises(UsageError, match=r"has no mask of 'b.png' \(1 of 2 pictures have none\)"):
        Inspector(detector, anomalous=bad, anomalous_masks=masks)
    other = Inspector(detector, anomalous=[picture(1), picture(2)], anomalous_masks=[corner()[:40], np.zeros((SIDE, SIDE))])
    errors = list(other.references.errors.values())
    assert "is (80, 40), the picture (80, 80). Give one of that size" in errors[0]
    assert "marks nothing. Leave the picture out, or mark its defect" in errors[1]


@pytest.mark.slow
def test_the_command_says_so_for_methods_without(tmp_path: Path) -> None:
    photos = write(tmp_path / "photos", a=picture(1))
    done = CliRunner().invoke(app, ["predict", str(photos), "--anomalous", str(photos), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "compact takes normal references only; leave the anomalous ones out" in done.output
