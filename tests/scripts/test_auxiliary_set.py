"""The drawn training set: its content, the families kept out of it, and the same pixels from the same command."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsad.datasets import load_mask, open_dataset
from zsad.images.reading import load_image
from zsad.images.sources import ImageRef
from zsad.synthetic.defects import DEFECTS

pytest.importorskip("skimage")
pytest.importorskip("conformal_clip_data")


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with tasks of three pictures so that a small set takes several."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import auxiliary_set

    monkeypatch.setattr(auxiliary_set, "PART", 3)
    yield auxiliary_set
    for name in ("auxiliary_set", "auxiliary_pictures"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_set_is_annotated_and_complete(drawing: Any, tmp_path: Path) -> None:
    drawing.draw(tmp_path / "set", 7, kept_out=False, processes=1)
    data = open_dataset(tmp_path / "set", split=None)
    assert not data.problems
    assert Counter(one.label for one in data) == {0: 7, 1: 14}
    stems = sorted(one.path.stem for one in data)
    assert stems == [f"{number:05}_{version}" for number in range(7) for version in range(3)]
    by_stem = {one.path.stem: one for one in data}
    for stem, one in by_stem.items():
        assert one.category not in drawing.CHOOSING + drawing.REPORTING
        assert (one.kind == "good") == (one.label == 0) == stem.endswith("_0")
        if one.label:
            assert one.kind in set(DEFECTS) - {drawing.UNSEEN_KIND}
            rgb, good = (load_image(ImageRef("", sample.path)).rgb.astype(int) for sample in (one, by_stem[f"{stem[:-1]}0"]))
            changed, mask = np.abs(rgb - good).max(2) >= 6, load_mask(one, drawing.SIDE).astype(bool)
            assert mask.any()
            assert (changed <= mask).all()  # what differs from the normal picture is in the mask


@pytest.mark.slow
def test_the_kept_out_set_has_the_other_families_and_every_kind(drawing: Any, tmp_path: Path) -> None:
    drawing.draw(tmp_path / "kept", 11, kept_out=True, processes=1)
    data = open_dataset(tmp_path / "kept", split=None)
    assert {one.category for one in data} <= set(drawing.CHOOSING + drawing.REPORTING)
    assert {one.kind for one in data if one.label} == set(DEFECTS)  # every kind in turn
    assert Counter(one.label for one in data) == {0: 11, 1: 11}


@pytest.mark.slow
def test_the_first_pictures_of_a_larger_set_are_the_same(drawing: Any, tmp_path: Path) -> None:
    drawing.draw(tmp_path / "small", 3, kept_out=False, processes=1)
    drawing.draw(tmp_path / "large", 6, kept_out=False, processes=1)
    small = {path.relative_to(tmp_path / "small"): path.read_bytes() for path in (tmp_path / "small").rglob("*.png")}
    assert len(small) == 3 * 3 + 2 * 3
    assert all((tmp_path / "large" / place).read_bytes() == content for place, content in small.items())
    drawing.draw(tmp_path / "other", 3, kept_out=False, seed=1, processes=1)
    other = {path.relative_to(tmp_path / "other"): path.read_bytes() for path in (tmp_path / "other").rglob("*.png")}
    assert other != small
