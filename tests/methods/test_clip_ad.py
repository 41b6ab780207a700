"""CLIP-AD's laws, its checkpoints, and mistakes that the comparison with the authors' outputs must see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zsad
from zsad.alignment import losses, maps, similarity
from zsad.backbones.vit import LocalPath
from zsad.errors import CheckpointMismatch, NeedsSet, NotTrained, UsageError
from zsad.prompts.representative import cluster_sentences, representative_vector
from zsad.types import Batch, Context, ImageFeatures
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import clip_ad as proof
from zsad.verification.reference import Reference


@pytest.fixture(scope="module")
def plain(reference: Reference, folder: Path, tower: Any) -> Any:
    return proof.build(reference, folder, tower)


@pytest.fixture(scope="module")
def plus(reference: Reference, folder: Path, tower: Any) -> Any:
    return proof.build(reference, folder, tower, linear=True)


@pytest.fixture(scope="module")
def context(reference: Reference) -> Context:
    return proof.stored_context(reference, "mvtec", 0)


# ------------------------------------------------------------------ mistakes
def without_restarts(start: int, attend: Any, restarts: Any = ()) -> LocalPath:
    return LocalPath(start, attend)


def corners(grid: Tensor, size: int, *, align_corners: bool = False) -> Tensor:
    return maps.upsample(grid, size, align_corners=not align_corners)


def unweighted(patches: Tensor, cls: Tensor, text: Tensor) -> Tensor:
    normal, anomalous = (F.normalize(patches, dim=-1) @ text.transpose(1, 2)).unbind(dim=-1)
    return (anomalous - normal) / 2


def weighted_twice(patches: Tensor, cls: Tensor, text: Tensor) -> Tensor:
    """CLIP Surgery's own factor in the softmax of the weights."""
    return similarity.surgery_similarity(patches, 2 * cls, text * 2) / 2


def softmax_first(logits: Tensor, grid: tuple[int, int], size: int, *, align_corners: bool = False) -> Tensor:
    p = logits.softmax(dim=-1).transpose(1, 2).unflatten(2, grid)
    return F.interpolate(p, size=size, mode="bilinear", align_corners=align_corners)


MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, Callable[..., Any]] | None]] = {
    "taps that are cloned": ({"aliased_taps": False}, None),
    "another sigma": ({"sigma": 7.5}, None),
    "no restarts": ({}, ("LocalPath", without_restarts)),
    "the other align_corners": ({}, ("upsample", corners)),
    "no weights of classes": ({}, ("surgery_similarity", unweighted)),
    "weights of another temperature": ({}, ("surgery_similarity", weighted_twice)),
    "softmax before the resize": ({"linear": True}, ("probability_maps", softmax_first)),
}


def failed(reference: Reference, detector: Any, prefix: str) -> list[str]:
    """Outputs that are not the authors'."""
    check = Comparisons(reference)
    with torch.inference_mode():
        proof.outputs(check, detector, detector.encode(reference.pixels()), prefix, proof.VARIANTS[prefix][0])
    return [one.output for one in check.made if not one.passed]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(
    mistake: str, reference: Reference, folder: Path, tower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, patch = MISTAKES[mistake]
    prefix = "sdpplus" if "linear" in arguments else "sdp"
    detector = proof.build(reference, folder, tower, **{"faithful": True, **arguments})
    if patch is not None:
        monkeypatch.setattr(f"zsad.methods.clip_ad.{patch[0]}", patch[1])
    assert failed(reference, detector, prefix)


@pytest.mark.slow
def test_another_activation_is_seen(reference: Reference, folder: Path) -> None:
    tower = proof.backbone(reference, folder, activation="quick_gelu")
    assert "sdp/similarity_grid" in failed(reference, proof.build(reference, folder, tower, faithful=True), "sdp")


def test_without_a_mistake_nothing_fails(reference: Reference, folder: Path, tower: Any) -> None:
    assert not failed(reference, proof.build(reference, folder, tower, faithful=True), "sdp")


# ------------------------------------------------------------------ laws
def test_sdp_needs_no_weights_and_sdp_plus_does(tower: Any) -> None:
    zsad.create("clip_ad", backbone=tower).require_trained()
    untrained = zsad.create("clip_ad", backbone=tower, linear=True)
    with pytest.raises(NotTrained, match=r"no learned weights yet.*checkpoint="):
        untrained.require_trained()
    with pytest.raises(NotTrained):
        zsad.Inspector(untrained)


@pytest.mark.slow
def test_a_score_does_not_depend_on_the_batch(reference: Reference, plain: Any, plus: Any, context: Context) -> None:
    images = reference.pixels()
    for detector in (plain, plus):
        with torch.inference_mode():
            together, alone = detector(images, context), [detector(one[None], context) for one in images]
        torch.testing.assert_close(together.pred_score, torch.cat([one.pred_score for one in alone]), rtol=0, atol=1e-5)
        torch.testing.assert_close(together.anomaly_map, torch.cat([one.anomaly_map for one in alone]), rtol=0, atol=1e-5)
        assert not detector.needs_set(context)
        assert ((together.pred_score > 0) & (together.pred_score < 1)).all()


def test_maps_do_not_depend_on_how_scores_are_scaled(reference: Reference, tower: Any, plain: Any, context: Context) -> None:
    scaled = zsad.create("clip_ad", backbone=tower, faithful=True)
    with torch.inference_mode():
        features = [plain.encode(one[None]) for one in reference.pixels()[:3]]
        found, alone = list(scaled.score_set(features, context)), list(plain.score_set(features, context))
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one.anomaly_map, other.anomaly_map)
    scores = torch.cat([one.pred_score for one in found])
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 2
    equal = list(scaled.score_set(features[:1] * 2, context))  # lowest and highest are the same
    assert [float(one.pred_score) for one in equal] == [0.0, 0.0]


def test_scaled_scores_need_the_set(tower: Any, context: Context) -> None:
    detector = zsad.create("clip_ad", backbone=tower, faithful=True)
    assert detector.needs_set(context)
    assert detector.scales_within_set(context) == "leave faithful=True out"
    with pytest.raises(NeedsSet, match="by the whole set's maps.*Call score_set"):
        detector.score(ImageFeatures(torch.zeros(1, 64)), context)


def test_normal_text_gives_the_same_with_the_other_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    patches, cls, text = (torch.randn(shape, generator=generator) for shape in ((2, 5, 8), (2, 8), (1, 2, 8)))
    there = similarity.surgery_similarity(patches, cls, text)
    torch.testing.assert_close(similarity.surgery_similarity(patches, cls, text.flip(1)), -there)
    weight = (F.normalize(cls, dim=-1) @ text[0].T).softmax(-1)  # feature surgery by hand, in products of channels
    both = F.normalize(patches, dim=-1)[:, :, None] * text[:, None] * (weight / weight.mean(1, keepdim=True))[:, None, :, None]
    by_hand = (both - both.mean(dim=2, keepdim=True)).sum(dim=-1)
    torch.testing.assert_close(there, by_hand[..., 1])


def test_stages_follow_the_depth() -> None:
    assert zsad.create("clip_ad", backbone=zsad.load_backbone("tiny", layers=8)).layers == (2, 4, 6, 8)


def test_references_are_fused(reference: Reference, plain: Any, context: Context) -> None:
    images = reference.pixels()
    with torch.inference_mode():
        banks = plain.banks(zsad.References(images[:1]))
        own = plain(images[:1], zsad.Context(context.text, banks=banks))
        without = plain(images[:1], context)
    torch.testing.assert_close(own.anomaly_map, without.anomaly_map / 2, rtol=0, atol=1e-6)  # it is its own nearest


# ------------------------------------------------------------------ text
@pytest.mark.slow
def test_the_largest_cluster_is_the_text() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[:2]
    many, few = (centres[i] + 0.02 * torch.randn(n, 8, generator=generator) for i, n in ((0, 20), (1, 6)))
    encoded = torch.cat([many, few, 3 * torch.eye(8)[5:6]])  # two clusters, and one by itself
    unit = F.normalize(encoded, dim=-1)
    assert cluster_sentences(unit, 0.3, 5).tolist() == [0] * 20 + [1] * 6 + [-1]
    found = representative_vector(encoded, 0.3, 5, half=False)
    torch.testing.assert_close(found, F.normalize(unit[:20].mean(0), dim=-1))
    rounded = representative_vector(encoded, 0.3, 5, half=True)
    assert torch.equal(rounded, rounded.half().float())
    assert 0 < float((rounded - found).abs().max()) < 1e-3


def test_all_sentences_count_where_none_is_in_a_cluster() -> None:
    apart = torch.eye(4)
    torch.testing.assert_close(representative_vector(apart, 0.1, 2, half=False), torch.full((4,), 0.5))
    torch.testing.assert_close(representative_vector(3 * apart, None, 2, half=True), torch.full((4,), 0.5))


# ------------------------------------------------------------------ checkpoints
def test_a_checkpoint_implies_sdp_plus(plus: Any, reference: Reference, tmp_path: Path) -> None:
    plus.require_trained()
    assert plus.arguments()["linear"]
    assert plus.map_range == (0.0, 4.0)
    plus.save(tmp_path / "own.safetensors")
    again = zsad.create("clip_ad", backbone=plus.backbone, checkpoint=tmp_path / "own.safetensors")
    assert all(torch.equal(tensor, again.learned_state()[key]) for key, tensor in plus.learned_state().items())


def test_wrong_files_are_refused(plain: Any, tmp_path: Path) -> None:
    layers = torch.load(proof.write_projections(1, tmp_path / "layers.pth"))["linear_layers"]
    wrong = {
        r"missing: projections\.3\.bias": {key: value for key, value in layers.items() if key != "fc.3.bias"},
        r"projections\.0\.weight is \(64, 96\) instead of \(64, 128\)": layers | {"fc.0.weight": torch.zeros(64, 96)},
        r"unexpected: projections\.4\.bias": layers | {"fc.4.bias": torch.zeros(64)},
    }
    for message, state in wrong.items():
        torch.save({"linear_layers": state}, tmp_path / "wrong.pth")
        with pytest.raises(CheckpointMismatch, match=message):
            zsad.create("clip_ad", backbone=plain.backbone, checkpoint=tmp_path / "wrong.pth")
    torch.save({"trainable_linearlayer": layers}, tmp_path / "april.pth")  # APRIL-GAN's
    with pytest.raises(CheckpointMismatch, match="unexpected: trainable_linearlayer"):
        zsad.create("clip_ad", backbone=plain.backbone, checkpoint=tmp_path / "april.pth")
    with pytest.raises(UsageError, match="no learned weights, so there is no checkpoint to load"):
        zsad.create("clip_ad", backbone=plain.backbone, checkpoint=tmp_path / "april.pth", linear=False)


# ------------------------------------------------------------------ training
def test_cached_features_give_the_same_losses(plus: Any, reference: Reference, context: Context) -> None:
    step = proof.batch(reference)
    with torch.no_grad():
        cached = plus.encode_for_loss(step.images)
        assert not cached.streams
        fresh, again = plus.loss(step, context), plus.loss(Batch(cached, step.labels, step.masks, step.names), context)
    assert list(fresh) == [f"{name} {layer}" for layer in (3, 6, 9, 12) for name in ("focal", "dice")]
    assert all(torch.equal(fresh[key], again[key]) for key in fresh)


def test_a_batch_of_one_is_no_special_case(plus: Any, reference: Reference, context: Context) -> None:
    """The mean of single pictures' losses is the batch's, unless the authors' rows are asked for."""
    step = proof.batch(reference)
    assert isinstance(step.images, Tensor)
    assert step.masks is not None
    ones = [
        Batch(step.images[i : i + 1], step.labels[i : i + 1], step.masks[i : i + 1], ("x",)) for i in range(len(step.masks))
    ]
    with torch.no_grad():
        whole = plus.loss(step, context)["dice 3"]
        torch.testing.assert_close(torch.stack([plus.loss(one, context)["dice 3"] for one in ones]).mean(), whole)
    p = torch.rand(1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 4, 6).index_fill_(1, torch.tensor([1]), 1)
    rows = torch.stack([losses.dice(p[:, 1, row], mask[:, row]) for row in range(4)]).mean()
    torch.testing.assert_close(losses.layer_losses({3: p}, mask, rows=True)["dice 3"], rows)


def test_training_needs_masks_and_layers(plain: Any, plus: Any, reference: Reference, context: Context) -> None:
    step = proof.batch(reference)
    for detector, masks in ((plus, None), (plain, step.masks)):
        with pytest.raises(UsageError, match=r"learns from masks, with linear=True"):
            detector.loss(Batch(step.images, step.labels, masks, step.names), context)
