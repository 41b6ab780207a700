"""A method that compares pictures: the encoder is exported, and zsad compares its outputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from exported import pictures, small_tower, tower  # noqa: F401

import zsad
from zsad.errors import UsageError
from zsad.exports.metadata import Metadata
from zsad.inference.inspector import Inspector


@pytest.mark.slow
def test_musc_compares_the_encoder_s_outputs(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    detector = zsad.create("musc", backbone=tower(), taps=(1, 2), radii=(1, 3))
    made = zsad.export(detector, out=tmp_path / "model", pictures=str(pictures))
    assert made.passed
    assert made.pictures["count"] == 10
    meta = Metadata.load(tmp_path / "model")
    assert (meta.model["kind"], meta.batch, meta.model["grids"]) == ("features", True, {"/1": [4, 4], "/2": [4, 4]})
    scores = [
        [one.pred_score for one in way(str(pictures))] for way in (Inspector(str(tmp_path / "model")), Inspector(detector))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    with pytest.raises(UsageError, match="compares pictures with each other"):
        next(iter(Inspector(str(tmp_path / "model"))(iter([str(pictures / "good" / "0.png")]))))
    command = [sys.executable, str(tmp_path / "model" / "run.py"), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pictures are compared with each other, which zsad does" in done.stderr
