"""AdaCLIP's laws and its checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment import semantic_fusion
from zsad.errors import CheckpointMismatch, UsageError
from zsad.prompts import hybrid
from zsad.types import Batch, ImageFeatures, Tap
from zsad.verification.proofs import adaclip as proof
from zsad.verification.reference import Reference
from zsad.verification.towers import TAPS, write_tower

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def weights(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP as a state dict on disk."""
    return write_tower(reference, tmp_path_factory.mktemp("weights"), embed_dim=128)


@pytest.fixture(scope="module")
def build(reference: Reference, weights: Path) -> Build:
    """Through the public interface: a backbone from a state dict, learned weights from the authors' layout."""
    backbone = zsad.load_backbone(f"file:{weights}", activation="gelu", position_embedding="bicubic", image_size=112)

    @cache
    def made(**keywords: Any) -> Any:
        return proof.build(reference, weights.parent, backbone, **keywords)

    return made


def test_names_with_hyphens(build: Build) -> None:
    assert build().prepare("metal-gasket").sentences == build().prepare("metal gasket").sentences
    assert build().prepare("metal gasket").text is None


@pytest.fixture(scope="module")
def ten(reference: Reference) -> torch.Tensor:
    images = reference.pixels()
    return torch.cat([images, images.flip(-1), images.flip(-2), images.roll(30, -1), images.transpose(-1, -2)])


@pytest.mark.slow
def test_a_batch_is_its_pictures(build: Build, reference: Reference, ten: torch.Tensor) -> None:
    detector, context = build(), build().prepare(reference.settings["class_names"][0])
    with torch.inference_mode():
        together, again = detector(ten, context), detector(ten, context)
        alone = [detector(ten[i : i + 1], context) for i in range(len(ten))]
    assert torch.equal(together.pred_score, again.pred_score)
    assert torch.equal(together.anomaly_map, again.anomaly_map)
    torch.testing.assert_close(torch.cat([one.pred_score for one in alone]), together.pred_score, rtol=0, atol=2e-5)
    torch.testing.assert_close(torch.cat([one.anomaly_map for one in alone]), together.anomaly_map, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_noise_on_the_features_leaves_the_score(
    build: Build, reference: Reference, ten: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of 1e-6 on patches and text: neighbours change places in the order of suspicion; one score."""
    detector, context = build(), build().prepare(reference.settings["class_names"][0])
    with torch.inference_mode():
        clean = detector.encode(ten)
        expected, text = detector.score(clean, context).pred_score, detector.text_features(clean, context)
        order = detector.margins(clean, context)[1].mean(dim=1).argsort(dim=1)
        for seed in range(3):
            noisy = with_noise(clean, 1e-6, seed)
            monkeypatch.setattr(type(detector), "text_features", lambda *_: text)
            shaken = nearest_exchanged(noisy, text, detector.margins(noisy, context)[1].mean(dim=1))
            monkeypatch.setattr(type(detector), "text_features", lambda *_, text=shaken: text)
            suspicion = detector.margins(noisy, context)[1].mean(dim=1)
            assert int((suspicion.argsort(dim=1) != order).any(dim=1).sum()) >= 5
            found = detector.score(noisy, context).pred_score
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)  # other clusters: 5e-3
            for i in range(len(ten)):
                monkeypatch.setattr(type(detector), "text_features", lambda *_, text=shaken[i : i + 1]: text)
                alone = detector.score(noisy[i : i + 1], context).pred_score
                torch.testing.assert_close(alone, found[i : i + 1], rtol=0, atol=2e-5)


def nearest_exchanged(features: ImageFeatures, text: torch.Tensor, suspicion: torch.Tensor) -> torch.Tensor:
    """The text (B, 2, D) with noise of 1e-6 on the anomalous vectors, of the signs that exchange each picture's nearest two."""
    patches = torch.stack([tap.patches for tap in features.streams["patches"].values()]).mean(dim=0)  # (B, L, D)
    shaken = text.clone()
    for number, values in enumerate(suspicion):
        order = values.argsort(descending=True)
        place = int((values[order[:-1]] - values[order[1:]]).argmin())
        apart = patches[number, order[place]] - patches[number, order[place + 1]]
        shaken[number, 1] -= 1e-6 * apart.sign()
    return shaken


def with_noise(features: ImageFeatures, size: float, seed: int) -> ImageFeatures:
    """The features with Gaussian noise of that size on every value."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x + size * torch.randn(x.shape, generator=generator)

    streams = {
        name: {layer: Tap(noisy(tap.patches), tap.grid) for layer, tap in taps.items()}
        for name, taps in features.streams.items()
    }
    return ImageFeatures(noisy(features.image), streams=streams)


def test_clusters_do_not_depend_on_the_order_of_the_rows() -> None:
    rows, places = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)), torch.arange(100, 160)
    turned = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    found = semantic_fusion.cluster_labels(rows, 8, 111, places)
    assert torch.equal(semantic_fusion.cluster_labels(rows[turned], 8, 111, places[turned]), found[turned])
    assert torch.equal(found, semantic_fusion.cluster_labels(rows, 8, 111))
    assert not torch.equal(found, semantic_fusion.cluster_labels(rows, 8, 5))


# ------------------------------------------------------------------ the authors' files
def test_a_string_backbone_follows_the_recipe(reference: Any, weights: Path, tmp_path: Path) -> None:
    path = proof.write_prompts(tmp_path / "prompts.pth", reference.settings, depth=3, length=2)
    detector = zsad.create("adaclip", backbone=f"file:{weights}", checkpoint=path, depth=3, length=2)
    backbone = detector.backbone
    assert (backbone.image_size, backbone.activation, backbone.position_embedding) == (518, "gelu", "bicubic")
    assert detector.trained
    assert detector.layers == TAPS


def test_a_full_dump_loads_without_its_frozen_clip(reference: Any, build: Build, weights: Path, tmp_path: Path) -> None:
    path = proof.write_prompts(tmp_path / "prompts.pth", reference.settings)
    state = {key.removeprefix("clip_model."): tensor for key, tensor in torch.load(path, weights_only=True).items()}
    clip = torch.load(weights, weights_only=True)
    torch.save(state | clip | {f"freeze_clip.{key}": tensor for key, tensor in clip.items()}, path)
    detector = zsad.create("adaclip", backbone=build().backbone, checkpoint=path)
    for key, tensor in build().learned_state().items():
        assert torch.equal(detector.learned_state()[key], tensor)


def test_wrong_files_are_refused(reference: Any, build: Build, tmp_path: Path) -> None:
    path, backbone = proof.write_prompts(tmp_path / "prompts.pth", reference.settings), build().backbone
    good = torch.load(path, weights_only=True)

    def refused(state: dict[str, Any], message: str, **keywords: Any) -> None:
        torch.save(state, path)
        with pytest.raises(CheckpointMismatch, match=message):
            zsad.create("adaclip", backbone=backbone, checkpoint=path, **keywords)

    refused(good, "not learned with depth=3, length=2: pass depth=4, length=5", depth=3, length=2)
    refused(good, "not learned with 2 taps: pass taps= with its 4 layers", taps=(12, 24))
    first = "clip_model.visual_prompter.static_prompts.1"
    refused({key: t for key, t in good.items() if key != first}, r"missing: visual_prompts\.static\.1")
    refused(good | {"clip_model.surplus": torch.zeros(1)}, "unexpected: surplus")
    refused(good | {first: torch.zeros(5, 64)}, r"visual_prompts\.static\.1 is \(5, 64\) instead of \(5, 128\)")
    refused({"prompt_learner": {"ctx_pos": torch.zeros(1)}}, "missing: class_projection.*unexpected: prompt_learner")


# ------------------------------------------------------------------ laws, on the tiny backbone
@pytest.fixture(scope="module")
def tiny() -> Any:
    torch.manual_seed(0)
    return zsad.create("adaclip", backbone=zsad.load_backbone("tiny"))


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 80, 80, generator=torch.Generator().manual_seed(2))


def test_frozen_feature_is_the_plain_one(tiny: Any) -> None:
    with torch.inference_mode():
        expected = tiny.backbone.encode_image(pictures()).image
        torch.testing.assert_close(tiny.backbone.encode_class(pictures()), expected, rtol=0, atol=1e-5)


def test_prompts_stand_at_the_end_and_are_replaced() -> None:
    x, tokens = torch.zeros(1, 4, 2), [torch.full((1, 3, 2), float(i)) for i in (1, 2)]
    append = hybrid.Append(tokens)
    first = append.insert(x, 1)
    second = append.insert(first + 10, 2)
    assert first[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert second[0, :, 0].tolist() == [10, 10, 10, 10, 2, 2, 2]
    assert append.insert(second, 3) is second


def test_taps_follow_the_depth(tiny: Any) -> None:
    assert tiny.layers == (3, 6, 9, 12)
    assert zsad.create("adaclip", backbone=tiny.backbone, taps=[2, 5]).layers == (2, 5)


def test_text_depends_on_the_picture(tiny: Any) -> None:
    with torch.inference_mode():
        text = tiny.text_features(tiny.encode(pictures()), tiny.prepare("nut"))
    assert text.shape == (2, 2, 32)
    assert (text[0] - text[1]).abs().max() > 1e-6
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(2, 2))


def test_short_sentences_under_long_prompts(tiny: Any, tmp_path: Path) -> None:
    """Prompts that reach beyond a cut sentence do what they do in the whole context of 77 tokens."""
    own = tmp_path / "short.toml"
    own.write_text('templates = ["{}."]\n[states]\nnormal = ["{}"]\nanomalous = ["bad {}"]\n')
    detector = zsad.create("adaclip", backbone=tiny.backbone, length=9, prompts=str(own))
    with torch.inference_mode():
        context, features = detector.prepare("nut"), detector.encode(pictures())
        padded = F.pad(context.extra["tokens"], (0, 77 - context.extra["tokens"].shape[1]))
        uncut = {"tokens": padded, "states": hybrid.unprompted_states(detector.backbone, padded)}
        whole = detector.text_features(features, zsad.types.Context(sentences=context.sentences, extra=uncut))
        torch.testing.assert_close(detector.text_features(features, context), whole, rtol=0, atol=1e-6)


def test_cluster_mean_by_hand() -> None:
    """A slow loop; a label that no row bears does not count."""
    patches, labels = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 1, 4, 1, 4, 0])
    centres = [torch.cat([layer[labels == c] for layer in patches]).mean(0) for c in (0, 1, 4)]
    torch.testing.assert_close(semantic_fusion.cluster_mean(patches, labels), F.normalize(torch.stack(centres).mean(0), dim=-1))


def test_clusters_of_few_and_of_coinciding_rows() -> None:
    """No warning (they are errors here) and nothing but numbers."""
    for rows in (torch.ones(30, 6), torch.ones(3, 6), torch.cat([torch.ones(9, 6), torch.zeros(9, 6)])):
        labels = semantic_fusion.cluster_labels(rows, 20, 111)
        assert labels.shape == rows.shape[:1]
        assert torch.isfinite(semantic_fusion.cluster_mean(rows[None], labels)).all()
    blank = F.normalize(torch.ones(2, 4, 25, 8), dim=-1)
    fused = semantic_fusion.semantic_features(blank, torch.zeros(2, 25), 20, 111)
    torch.testing.assert_close(fused, blank[:, 0, 0])


def test_dice_is_per_row_of_pixels() -> None:
    margins, masks = torch.tensor([[[9.0, -9.0], [-9.0, -9.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    found = hybrid.map_losses([margins], masks)["dice"].item()
    # anomalous rows: hit (loss 0), miss (1 - 1/2); normal rows: hit (0), 1 of 2 with 2 claimed (1 - 3/4)
    assert found == pytest.approx((0 + 1 / 2) / 2 + (0 + 1 / 4) / 2, abs=1e-3)


def test_bfloat16(tiny: Any) -> None:
    context = tiny.prepare("nut")
    with torch.inference_mode():
        exact = tiny(pictures(), context)
        with torch.autocast("cpu", torch.bfloat16):
            found = tiny(pictures(), context)
    assert found.pred_score.dtype == found.anomaly_map.dtype == torch.float32
    torch.testing.assert_close(found.anomaly_map, exact.anomaly_map, rtol=0, atol=0.2)


def test_what_it_cannot_do_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'compact' is none"):
        zsad.create("adaclip", backbone=zsad.load_backbone("compact"))
    with pytest.raises(UsageError, match="give it pictures, not features"):
        tiny.loss(Batch(ImageFeatures(torch.zeros(1, 32)), torch.zeros(1), None, ("nut",)), tiny.prepare("nut"))
    own = tmp_path / "mine.toml"
    own.write_text('templates = ["{}."]\n[states]\ngood = ["clean {}"]\nbad = ["rusty {}"]\n')
    with pytest.raises(UsageError, match="needs the classes 'normal' and 'anomalous'"):
        zsad.create("adaclip", backbone=tiny.backbone, prompts=str(own)).prepare("nut")
