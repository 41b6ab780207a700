"""The benchmark on folders of real pictures, on two small made sets."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zsad
from zsad.metrics import image_auroc


@pytest.fixture
def benchmark(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import real_pictures

    return real_pictures


Array = np.ndarray[Any, Any]


def picture(seed: int, blot: bool) -> tuple[Array, Array]:
    """Stripes, and where a blot is, another one in every picture."""
    rng = np.random.default_rng(seed)
    found, mask = 128 + 40 * np.sin(np.arange(96) / 4)[None, :] + rng.normal(0, 8, (96, 96)), np.zeros((96, 96), np.uint8)
    if blot:
        top, left = rng.integers(8, 60, 2)
        mask[top : top + 26, left : left + 26] = 255
        found = np.where(mask > 0, rng.uniform(0, 255) + rng.normal(0, rng.uniform(2, 40), mask.shape), found)
    return np.repeat(np.clip(found, 0, 255).astype(np.uint8)[..., None], 3, axis=2), mask


def write_set(place: Path, normal: int = 12, anomalous: int = 4) -> None:
    for name in ("good", "bad/blot", "masks/blot"):
        (place / name).mkdir(parents=True)
    for number in range(normal):
        Image.fromarray(picture(number, False)[0]).save(place / "good" / f"{number}.jpg")
    for number in range(anomalous):
        shown, mask = picture(100 + number, True)
        Image.fromarray(shown).save(place / "bad/blot" / f"{number}.jpg")
        Image.fromarray(mask).save(place / "masks/blot" / f"{number}.png")
    (place / "about.json").write_text(json.dumps({"object": "stripes"}))


@pytest.mark.slow
def test_figures_are_those_of_the_public_interface(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zsad, "Inspector", partial(zsad.Inspector, tower="small"))  # half the time of compact's two towers
    write_set(tmp_path / "stripes")
    pictures = benchmark.Pictures.read(tmp_path / "stripes")
    assert (pictures.target, len(pictures.paths), int(pictures.bad.sum()), len(pictures.masks)) == ("stripes", 16, 4, 4)
    row = benchmark.measure(pictures, "compact", 1)
    for name, batch in (("itself", "off"), ("folder", "auto")):
        scores = [one.pred_score for one in zsad.Inspector(target="stripes", batch=batch)(pictures.paths)]
        assert row[name] == pytest.approx(image_auroc(np.array(scores), pictures.bad), abs=1e-6)
    assert row["pixel pooled, folder"] > 0.9
    assert {"1 references", "4 references, recall"} <= row.keys()
    assert "16 references" not in row, "twelve normal pictures are too few"
    assert {(one["size"], one["share"]) for one in row["verdicts"]} == {(8, 0.05), (8, 0.1), (8, 0.2), (8, 0.5)}
    benchmark.print_tables({"stripes": row})
    printed = capsys.readouterr().out
    assert "| image AUROC | itself | 1 references |" in printed
    assert "| 8 pictures: recall, false alarms |" in printed


def test_drawn_folders_have_the_share_that_was_asked_for(benchmark: Any) -> None:
    pictures = benchmark.Pictures("x", "x", [Path(str(n)) for n in range(20)], np.array([False] * 12 + [True] * 8))
    numbers = pictures.drawn(10, 0.2, 0)
    assert (len(set(numbers)), int(pictures.bad[numbers].sum())) == (10, 2)
    assert numbers == pictures.drawn(10, 0.2, 0)
    assert pictures.drawn(10, 0.9, 0) is None, "nine anomalous pictures are not there"
    assert pictures.drawn(30, 0.1, 0) is None
