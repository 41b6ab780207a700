"""FiLo's laws, boxes, checkpoints and mistakes; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment import maps as pixel_maps
from zsad.alignment.fast_convolution import convolve, split_kernel
from zsad.alignment.multi_scale import SHAPES, MultiScaleConvolution
from zsad.backbones.grounding import GroundingBoxes
from zsad.errors import CheckpointMismatch, SourceNotFound, UsageError, WeightsUnavailable
from zsad.images.boxes import Box, BoxesOfFile, accepted, inside, picture_key, write_boxes
from zsad.prompts.positions import DEFECT_WORDS, POSITIONS, fine_phrases, places_of, region
from zsad.types import Batch, ImageFeatures
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import filo
from zsad.verification.reference import Reference

HIGH = Box((0.5, 0.1, 0.2, 0.2), "damage", 0.5)  # above the centre


@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.load_backbone("tiny", activation="gelu", position_embedding="bicubic")


def build(tiny: Any, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return zsad.create("filo", backbone=tiny, **arguments)


def pictures(tiny: Any, count: int = 1) -> torch.Tensor:
    """Preprocessed noise, as from files of 8 bits."""
    rgb = torch.randint(0, 256, (count, 80, 80, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return torch.stack([tiny.preprocess(one.numpy()) for one in rgb])


# ------------------------------------------------------------------ positions and boxes
def test_thirds() -> None:
    assert [POSITIONS[region(x, y) or 0] for x, y in ((0.1, 0.1), (0.5, 0.5), (0.9, 0.1), (1.2, 1.2))] == [
        "top left",
        "center",
        "top right",
        "bottom right",
    ]
    gap = 172.5 / 518
    assert (region(gap, 0.5), region(gap, 0.5, gaps=True), region(1.01, 0.5, gaps=True)) == (3, None, None)


def test_the_best_box_says_where() -> None:
    low, tie = Box((0.5, 0.9, 0.2, 0.2), "defect", 0.509), Box((0.1, 0.5, 0.1, 0.1), "defect", 0.41)
    assert places_of([HIGH, tie]) == (POSITIONS.index("top"),)
    assert places_of([low, HIGH]) == (POSITIONS.index("top"),)  # equal in two decimals: the last
    assert places_of([]) == (POSITIONS.index("center"),)
    assert places_of([Box((172.5 / 518, 0.5, 0.1, 0.1), "defect", 0.5)], gaps=True) == tuple(range(9))


def test_boxes_are_accepted_by_words_and_mark_pixels() -> None:
    boxes = [HIGH, Box((0.5, 0.5, 1.0, 1.0), "object", 0.9)]
    assert accepted(boxes, DEFECT_WORDS) == [HIGH]
    mask = inside([HIGH], 10)
    assert (int(mask.sum()), bool(mask[0, 4]), bool(mask[2, 4])) == (4, True, False)
    out = Box((0.05, 0.5, 0.55, 0.2), "damage", 0.5)  # from -0.225
    assert (int(inside([out], 10).sum()), int(inside([out], 10, cut=False).sum())) == (6, 0)


def test_phrases(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = 'templates = ["{}"]\n[states]\nnormal = ["{}"]\nanomalous = ["damaged {}"]\n[names]\nnut2 = "nut"\n[details]\n'
    own.write_text(text + 'nut = ["rust"]\n')
    found = fine_phrases(str(own), "nut2")
    assert found["normal"] == ("nut",)
    assert found["anomalous"][:2] == ("abnormal nut with rust at top left", "abnormal nut with rust at top")
    assert found["anomalous"][9 + 4] == "damaged nut at center"
    assert found["boxes"] == ("rust", *DEFECT_WORDS)
    assert len(fine_phrases("filo", "a thing that nobody listed")["anomalous"]) == 5 * 9  # the general states


@pytest.mark.slow
def test_a_file_of_boxes(tiny: Any, tmp_path: Path) -> None:
    images, path = pictures(tiny, 2), tmp_path / "boxes.json"
    rgb = tiny.preprocess.pixels(images).numpy()
    write_boxes(path, {picture_key(rgb[1]): [HIGH]})
    assert (BoxesOfFile(path)(rgb[0], ()), BoxesOfFile(path)(rgb[1], ())) == ([], [HIGH])
    given, without = build(tiny, boxes=str(path)), build(tiny, boxes=lambda *_: [])
    with torch.inference_mode():
        first, second = (detector(images, detector.prepare()) for detector in (given, without))
    assert torch.equal(first.anomaly_map[0], second.anomaly_map[0])
    assert float(first.pred_score[1] - second.pred_score[1]) != 0.0
    mask = inside([HIGH], 80)
    assert float((first.anomaly_map[1][mask] / second.anomaly_map[1][mask]).mean()) > 1.2  # about 1 / 0.7
    with pytest.raises(SourceNotFound, match="no file of boxes at"):
        build(tiny, boxes=str(tmp_path / "none.json"))
    path.write_text('{"a": [{"box": [1, 2], "phrase": "x", "confidence": 1}]}')
    with pytest.raises(UsageError, match=r"boxes\.json is no file of boxes .* It needs, per picture key, a list of"):
        build(tiny, boxes=str(path))


def test_words_reach_the_finder(tiny: Any) -> None:
    seen: list[tuple[Any, ...]] = []

    def find(rgb: np.ndarray[Any, Any], words: Sequence[str]) -> list[Box]:
        seen.append((rgb.shape, rgb.dtype, tuple(words)))
        return [HIGH]

    detector = build(tiny, boxes=find)
    with torch.inference_mode():
        detector(pictures(tiny, 2), detector.prepare("nut"))
    assert seen == [((80, 80, 3), np.dtype(np.uint8), DEFECT_WORDS)] * 2


def test_without_boxes_it_says_so(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zsad"):
        build(tiny)
    assert "No boxes= were given" in caplog.text


@pytest.mark.slow
def test_grounding_dino_of_transformers(tmp_path: Path) -> None:
    """A tiny one of random weights: boxes are shares of the picture, and large ones are left out."""
    transformers = pytest.importorskip("transformers")

    class Processor:
        def __call__(self, images: Any, text: str, return_tensors: str) -> dict[str, Any]:
            assert text == "rust . damage ."
            return {"input_ids": torch.zeros(1, 1)}

        def post_process_grounded_object_detection(self, *_: Any, **thresholds: float) -> list[dict[str, Any]]:
            assert thresholds == {"threshold": 0.25, "text_threshold": 0.25}
            places = torch.tensor([[0.1, 0.2, 0.3, 0.6], [0.0, 0.0, 1.0, 0.9]])
            return [{"boxes": places, "scores": torch.tensor([0.5, 0.9]), "text_labels": ["rust", "damage"]}]

    finder = GroundingBoxes.__new__(GroundingBoxes)
    finder.processor, finder.model = Processor(), lambda **_: None
    (box,) = finder(np.zeros((4, 4, 3), np.uint8), ("rust", "damage"))
    assert box.place == pytest.approx((0.2, 0.4, 0.2, 0.4))
    assert (box.phrase, box.confidence) == ("rust", 0.5)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(WeightsUnavailable, match=r"could not be loaded as a Grounding DINO .* or leave boxes out"):
        GroundingBoxes(str(tmp_path))
    assert transformers


# ------------------------------------------------------------------ decoders and training
def test_six_convolutions_are_one() -> None:
    torch.manual_seed(0)
    module, patches = MultiScaleConvolution(6, 4), torch.randn(2, 5 * 3, 6)
    grid = patches.transpose(1, 2).unflatten(2, (5, 3))
    with torch.inference_mode():
        single = [
            F.conv2d(grid, conv.weight, conv.bias, padding=(h // 2, w // 2))
            for (h, w), conv in zip(SHAPES, module.kernels.values(), strict=True)
        ]
        expected = torch.stack(single).sum(0).flatten(2).transpose(1, 2)
        torch.testing.assert_close(module(patches, (5, 3)), expected)
        kept = module._kept["kernel"][1]
        module(patches, (5, 3))
        assert module._kept["kernel"][1] is kept
    torch.testing.assert_close(module(patches, (5, 3)), expected)  # with gradients
    with torch.no_grad():
        module.kernels["33"].weight.add_(1)  # type: ignore[operator]
        assert (module(patches, (5, 3)) - expected).abs().max() > 0.1  # made anew


@pytest.mark.parametrize("side", [3, 5, 7])
def test_the_fast_convolution_is_the_direct_one(side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    for height, width in ((1, 1), (4, 4), (5, 8), (9, 3)):
        maps = torch.randn(2, 6, height, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(4, 6, side, side, generator=generator, dtype=torch.float64)
        direct = F.conv2d(maps, weight, padding=side // 2).permute(0, 2, 3, 1)
        torch.testing.assert_close(convolve(maps.permute(0, 2, 3, 1), split_kernel(weight)), direct)


def test_blur_is_torchvisions() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    found = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pixel_maps.blur_3x3(found, 4.0), functional.gaussian_blur(found, [3, 3], [4.0, 4.0]))


def test_phases(tiny: Any) -> None:
    detector, images = build(tiny), pictures(tiny, 2)
    labels, masks, context = torch.tensor([0, 1]), torch.zeros(2, 80, 80), detector.prepare()
    batch = Batch(images, labels, masks, ("x", "x"))
    learned = {key for phase in detector.schedule.phases for key in phase.rates}
    assert all(key.startswith(tuple(learned)) for key, _ in detector.named_parameters() if not key.startswith("backbone."))
    assert sum(phase.epochs for phase in detector.schedule.phases) == detector.schedule.epochs
    for number, phase in enumerate(detector.schedule.phases):
        detector.start_phase(number)
        detector.zero_grad()
        torch.stack(list(detector.loss(batch, context).values())).sum().backward()
        reached = {key for key, p in detector.named_parameters() if p.grad is not None}
        assert reached == {key for key, _ in detector.named_parameters() if key.startswith(tuple(phase.rates))}
    only_labels = Batch(detector.encode_for_loss(images), labels, None, ("x", "x"))
    assert set(detector.loss(only_labels, context)) == {"picture"}
    detector.start_phase(0)
    with pytest.raises(UsageError, match="filo learns from masks; got a batch without"):
        detector.loss(only_labels, context)


# ------------------------------------------------------------------ checkpoints
@pytest.mark.slow
def test_files(reference: Reference, tower: Any, tmp_path: Path) -> None:
    def load(name: str, **extra: torch.Tensor) -> Any:
        path = filo.write_weights(reference.settings, tmp_path / name, extra)
        return zsad.create("filo", backbone=tower, checkpoint=path, boxes=lambda *_: [])

    real = torch.load(filo.write_weights(reference.settings, tmp_path / "real.pth"))["filo"]
    named = load("fits.pth", **{"clip_model.visual.transformer.resblocks.6.attn.qkv.weight": torch.zeros(3)})  # left out
    assert torch.equal(named.decoders.convolved[2].kernels["51"].weight, real["decoder_cov.fc_51.2.weight"])
    assert torch.equal(named.tokens.anomalous.meta_net.linear2.bias, real["abnormal_prompt_learner.meta_net.linear2.bias"])
    with pytest.raises(CheckpointMismatch, match=r"unexpected: decoders\.linear\.4\.weight"):
        load("more.pth", **{"decoder_linear.fc.4.weight": torch.zeros(2)})
    short = {key: tensor for key, tensor in real.items() if "decoder_cov.fc_33.2" not in key}
    torch.save({"filo": short}, tmp_path / "short.pth")
    with pytest.raises(CheckpointMismatch, match=r"missing: decoders\.convolved\.2\.kernels\.33\.bias"):
        zsad.create("filo", backbone=tower, checkpoint=tmp_path / "short.pth", boxes=lambda *_: [])
    with pytest.raises(CheckpointMismatch, match=r"unexpected: decoders\.convolved\.2"):
        zsad.create("filo", backbone=tower, taps=(6, 12, 24), checkpoint=tmp_path / "real.pth", boxes=lambda *_: [])


def test_saved_weights_know_nothing_of_boxes(tiny: Any, tmp_path: Path) -> None:
    detector = build(tiny, boxes=lambda *_: [])
    header = detector.save(tmp_path / "own.safetensors")
    assert "boxes" not in header["arguments"]
    again = zsad.create("filo", backbone=tiny, checkpoint=tmp_path / "own.safetensors")
    assert torch.equal(again.adapter.fc[0].weight, detector.adapter.fc[0].weight)


# ------------------------------------------------------------------ plausible mistakes are seen
@pytest.mark.slow
def test_scores_do_not_depend_on_the_batch(reference: Reference, folder: Path, tower: Any) -> None:
    """Pictures with a box at one place, with boxes in a gap and without boxes, together and alone."""
    detector = filo.build(reference, folder, tower)
    with torch.inference_mode():
        context = detector.prepare(reference.settings["class_names"][0])
        together = detector(reference.pixels(), context)
        alone = [detector(one[None], context) for one in reference.pixels()]
    torch.testing.assert_close(together.pred_score, torch.cat([one.pred_score for one in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.anomaly_map, torch.cat([one.anomaly_map for one in alone]), rtol=0, atol=1e-5)


def singly(patch: pytest.MonkeyPatch) -> None:
    def text(self: Any, *arguments: Any) -> torch.Tensor:
        return F.normalize(plain(self, *arguments), dim=-1)

    from zsad.methods.filo import FiLo

    plain = FiLo.text
    patch.setattr(FiLo, "text", text)


def half_pixels(patch: pytest.MonkeyPatch) -> None:
    plain = pixel_maps.upsample
    patch.setattr("zsad.methods.filo.upsample", lambda grid, size, **_: plain(grid, size))


def after_the_boxes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.methods.filo.OUTSIDE", 1.0)


def without_blur(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.methods.filo.blur_3x3", lambda maps, sigma: maps)


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


MISTAKES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], dict[str, Any], set[str]]] = {
    "none": (nothing, {}, set()),
    "cloned taps": (nothing, {"aliased_taps": False}, {"scores", "maps"}),
    "mended boxes": (nothing, {"faithful": False}, {"maps"}),
    "boxes are not looked for": (nothing, {"boxes": None}, {"scores", "maps"}),
    "text vectors normalised singly": (singly, {}, {"text", "scores", "maps"}),
    "corners are not aligned": (half_pixels, {}, {"maps"}),
    "no blur": (without_blur, {}, {"scores", "maps"}),
    "boxes do not weight the map": (after_the_boxes, {}, {"maps"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(
    mistake: str, reference: Reference, folder: Path, tower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, arguments, expected = MISTAKES[mistake]
    detector, check = filo.build(reference, folder, tower, **arguments), Comparisons(reference)
    spoil(monkeypatch)
    with torch.inference_mode():
        features: ImageFeatures = detector.encode(reference.pixels()[1:2])  # each picture shows them all; the proof has both
        filo._outputs(check, detector, features, detector.prepare(reference.settings["image_classes"][1]), 1)
    found = {one.kind for one in check.made if not one.passed}
    assert found >= expected
    assert bool(found) == bool(expected)
