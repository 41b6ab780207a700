"""Every method on an accelerator against the CPU: scores and maps, references, batch mode, a training step, a run that resumes.

Marked ``cuda`` and left out where there is no such card, unless ``ZSAD_TEST_DEVICE`` names another device.
``scripts/device_check`` runs them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import write_set
from command_runs import normal_pictures, results, run
from tiny_methods import LEARNED, TRAINED_FORM, options_of, small_recipes, tiny_method

import zsad
from zsad.registry import method_class

pytestmark = [pytest.mark.cuda, pytest.mark.slow]
DEVICE = os.environ.get("ZSAD_TEST_DEVICE", "cuda")
# worst difference to float32 on the CPU, as a share of the largest value of the pictures' scores or maps; some pictures are
# references themselves, and a distance near zero is the root of what rounding leaves: 2e-3 was seen there
TOLERANCE = {"fp32": 4e-3, "bf16": 0.2, "fp16": 0.05}
PRECISIONS = [one for one in TOLERANCE if one != "fp16" or DEVICE != "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of three normal and two anomalous pictures."""
    return write_set(tmp_path_factory.mktemp("set") / "parts", good=3, bad=2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_recipes(monkeypatch, layers=12)  # differences grow with them


def found(method: str, data: Path, device: str, precision: str, few: bool, **options: Any) -> tuple[Any, Any]:
    """Scores (N,) and maps (N, H, W) of the category "nut"."""
    references = normal_pictures(method, data) if few or method_class(method).needs_references else None
    inspector = zsad.Inspector(tiny_method(method), "nut", references=references, device=device, precision=precision, **options)
    rows = list(inspector(sorted((data / "nut/test").rglob("*.png"))))
    assert [row.error for row in rows] == [None] * len(rows)
    return np.array([row.pred_score for row in rows]), np.stack([row.anomaly_map for row in rows])


def assert_close(got: tuple[Any, Any], expected: tuple[Any, Any], tolerance: float) -> None:
    for what, one, other in zip(("scores", "maps"), got, expected, strict=True):
        worst = np.abs(one - other).max() / np.abs(other).max()
        assert worst <= tolerance, f"{what} differ by {worst:.2g} of their largest value"


@pytest.mark.parametrize("few", [False, True], ids=["alone", "references"])
@pytest.mark.parametrize("method", zsad.list_methods())
def test_scores_are_those_of_the_cpu(method: str, few: bool, data: Path) -> None:
    expected = found(method, data, "cpu", "fp32", few)
    for precision in PRECISIONS:
        assert_close(found(method, data, DEVICE, precision, few), expected, TOLERANCE[precision])


def test_the_default_compares_a_folder(data: Path) -> None:
    expected = found("compact", data, "cpu", "fp32", False, batch="on")
    assert_close(found("compact", data, DEVICE, "fp32", False, batch="on"), expected, TOLERANCE["fp32"])


@pytest.mark.parametrize("method", LEARNED)
def test_an_epoch_has_the_losses_of_the_cpu(method: str, data: Path, tmp_path: Path) -> None:
    losses = []
    for place, device in (("first", "cpu"), ("second", "cpu" if DEVICE == "cpu" else "auto")):
        detector = tiny_method(method, **TRAINED_FORM.get(method, {}))
        epochs = max(1, len(detector.schedule.phases))
        header = zsad.train(detector, data, tmp_path / place, epochs=epochs, batch_size=4, device=device)
        losses.append(header.get("losses", []))
    assert np.allclose(*losses, rtol=0.02, atol=1e-3), f"{losses[0]} on the CPU, {losses[1]} on {DEVICE}"


@pytest.mark.parametrize("method", zsad.list_methods())
def test_a_run_resumes(method: str, data: Path, tmp_path: Path) -> None:
    options: list[Any] = [data / "nut/test", *options_of(method, tmp_path), "--device", DEVICE, "--batch-size", "1"]
    options += ["--references", normal_pictures(method, data)] if method_class(method).needs_references else []
    options += ["--out", tmp_path / "out"]
    run("predict", *options)
    whole = results(tmp_path / "out")
    records = tmp_path / "out/.zsad/records.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:1]))
    run("predict", *options, "--resume")
    assert results(tmp_path / "out") == whole


def test_an_exported_model_scores_as_on_the_cpu(data: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if DEVICE == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA here: install onnxruntime-gpu in place of onnxruntime")
    pytest.importorskip("onnxscript")
    zsad.export(tiny_method("winclip"), "nut", out=tmp_path / "model", pictures=str(data / "nut"))
    files = sorted((data / "nut/test").rglob("*.png"))
    there = {device: zsad.Inspector(str(tmp_path / "model"), device=device) for device in ("cpu", DEVICE)}
    rows = {device: list(inspector(files)) for device, inspector in there.items()}
    if DEVICE == "cuda":
        detector: Any = there["cuda"].detector
        assert detector.session("cuda").runtime.endswith("(CUDAExecutionProvider)")
    scores, maps = (
        {device: np.stack([getattr(row, name) for row in some]) for device, some in rows.items()}
        for name in ("pred_score", "anomaly_map")
    )
    assert_close((scores[DEVICE], maps[DEVICE]), (scores["cpu"], maps["cpu"]), TOLERANCE["fp32"])
