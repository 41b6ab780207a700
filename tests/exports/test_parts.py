"""What an export does beside its model: resizes as products, the script's own arithmetic, pictures and their labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from zsad.exports import standalone
from zsad.exports.certificate import Tolerance, _beyond, tolerance_of
from zsad.exports.graph import resize_facts, rule_of
from zsad.exports.pictures import own_pictures, pictures_of
from zsad.exports.sessions import open_session
from zsad.exports.writing import _matrix, _why
from zsad.images.preprocessing import SideBySide, Squash
from zsad.images.reading import ImageRef, load_image
from zsad.inference.result import find_regions
from zsad.inference.verdict import original_size


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(11, 9), (30, 40)])
def test_a_bicubic_resize_is_two_products(size: tuple[int, int], antialias: bool) -> None:
    x = torch.randn(2, 3, 20, 17)
    left, right = (_matrix(old, new, None, False, antialias) for old, new in zip(x.shape[2:], size, strict=True))
    wanted = F.interpolate(x, size=size, mode="bicubic", antialias=antialias)
    assert (left @ x @ right.T - wanted).abs().max() < 1e-5


def test_a_resize_by_a_factor_is_its_own() -> None:
    x = torch.randn(1, 2, 7, 7)
    one = _matrix(7, None, 10.1 / 7, False, False)
    assert (one @ x @ one.T - F.interpolate(x, scale_factor=(10.1 / 7, 10.1 / 7), mode="bicubic")).abs().max() < 1e-5


def test_the_script_s_regions_and_maps_are_zsad_s() -> None:
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.random((1, 9, 7), dtype=np.float32))
    whole = original_size(small[0].numpy(), (90, 120))
    assert np.abs(standalone.enlarged(small[0].numpy(), (90, 120)) - whole).max() < 1e-6
    own, _ = find_regions(whole, 0.6)
    found = standalone.regions(whole, 0.6)
    assert len(own) > 2
    assert [(tuple(one["box"]), one["area"], one["peak"]) for one in found] == [(one.box, one.area, one.peak) for one in own]


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "CMYK", "turned", "unused"])
def test_the_script_reads_pictures_as_zsad_does(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    if mode == "turned":
        exif[274] = 6
    elif mode == "unused":
        pixels[..., 3] = 0
        image = Image.fromarray(pixels)
    else:
        image = image.convert(mode) if mode != "CMYK" else image.convert("RGB").convert("CMYK")
    (image.convert("RGB") if mode == "turned" else image).save(path, exif=exif)
    assert np.array_equal(standalone.read(path), load_image(ImageRef("a", path)).rgb)


def test_the_script_refuses_deep_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        standalone.read(tmp_path / "a.png")


def test_the_script_s_labels() -> None:
    levels = {"anomalous": 2.0, "review": 1.0}
    assert [standalone.label(score, levels, None) for score in (2, 1.5, 0)] == ["anomalous", "review", "normal"]
    assert (standalone.label(1.5, levels, 1.2), standalone.label(1, {}, None)) == ("anomalous", None)


def test_labels_by_the_folders_names(tmp_path: Path) -> None:
    for folder in ("good", "crack", "ground_truth/crack"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "a.png")
    found = pictures_of(str(tmp_path))
    assert [(ref.name, label) for ref, label in zip(found.refs, found.labels, strict=True)] == [
        ("crack/a.png", 1),
        ("good/a.png", 0),
    ]
    assert pictures_of(str(tmp_path / "good")).labels == []
    assert len(own_pictures().refs) == 16


@pytest.mark.parametrize(
    ("tolerance", "figures", "said"),
    [
        (Tolerance(1e-4), (2e-4, 0.0, 1.0, None), "scores differ by 0.0002"),
        (Tolerance(1e-4), (0.0, 2e-4, 1.0, None), "maps differ by 0.0002"),
        (Tolerance(1e-4), (float("nan"), 0.0, 1.0, None), "scores differ by nan"),
        (Tolerance(1e-4), (0.0, float("inf"), 1.0, None), "maps differ by inf"),
        (tolerance_of("int8"), (1.0, 9.0, 0.9, None), "rank correlation is 0.9"),
        (tolerance_of("int8"), (1.0, 9.0, None, None), "cannot be computed"),
        (tolerance_of("int8"), (1.0, 9.0, 0.9, {"loss": 0.02}), "AUROC falls by 0.02"),
    ],
)
def test_what_is_beyond_a_tolerance(tolerance: Tolerance, figures: Any, said: str) -> None:
    (clause,) = _beyond(tolerance, *figures)
    assert said in clause


def test_what_is_within() -> None:
    assert _beyond(Tolerance(1e-4), 9e-5, 9e-5, None, None) == []
    assert _beyond(tolerance_of("int8"), 1.0, 9.0, 0.5, {"loss": 0.005}) == []


def test_what_the_tracer_says_becomes_a_sentence() -> None:
    assert "takes the number of pictures for a constant" in _why(
        RuntimeError("Constraints violated (_0)! For more information")
    )
    assert _why(ValueError("cannot trace\nmore")) == "its code does what no graph can hold (cannot trace)"
    assert _why(KeyError()) == "its code does what no graph can hold (KeyError)"


class NoModel:
    """What onnxruntime gives for a model, on the first of the asked providers that works."""

    def __init__(self, path: str, options: Any, providers: list[str]) -> None:
        self.providers = [one for one in providers if one in WORK]

    def get_providers(self) -> list[str]:
        return self.providers


WORK = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("device", "there", "works", "runs_on"),
    [("cuda", WORK, WORK, 0), ("cuda", WORK[1:], WORK, 1), ("cuda", WORK, WORK[1:], 1), ("cpu", WORK, WORK, 1)],
    ids=["cuda", "no provider", "no libraries", "cpu"],
)
def test_the_provider_of_a_device(
    device: str,
    there: list[str],
    works: list[str],
    runs_on: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", NoModel)
    monkeypatch.setitem(globals(), "WORK", works)
    with caplog.at_level("WARNING", "zsad"):
        found = open_session(Path("model.onnx"), "onnx", ["score"], 1, device)
    provider = ["CUDAExecutionProvider", "CPUExecutionProvider"][runs_on]
    assert found.runtime.endswith(f"({provider})")
    told = "runs on the CPU and not on cuda: onnxruntime" in caplog.text
    assert told == (device == "cuda" and runs_on == 1)


@pytest.mark.parametrize("rule", [Squash(24), SideBySide(28, resample="bilinear", second=16)], ids=("square", "sheet"))
def test_pictures_are_made_alike_by_the_method_the_opened_model_and_the_script(rule: Squash) -> None:
    facts = {"size": list(rule.shape), "resize": resize_facts(rule), "mean": list(rule.mean), "deviation": list(rule.std)}
    kept = json.loads(json.dumps(facts))
    assert rule_of(kept) == rule
    picture = np.random.default_rng(0).integers(0, 256, (30, 41, 3)).astype(np.uint8)
    assert (standalone.resized(picture, kept) == rule.resized(picture)).all()
