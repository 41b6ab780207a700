"""AnoVL's laws, and mistakes that the comparison with the authors' outputs must see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zsad
from zsad.alignment import tiles, token_adapter, views
from zsad.backbones.vit import LocalPath
from zsad.errors import NeedsSet, UsageError
from zsad.types import Context, ImageFeatures
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import anovl as proof
from zsad.verification.reference import Reference


@pytest.fixture(scope="module")
def contexts(reference: Reference, tower: Any) -> dict[str, Context]:
    """With the sentences' directions, by category."""
    detector = zsad.create("anovl", backbone=tower, tta=True)
    with torch.inference_mode():
        return {name: detector.prepare(name) for name in reference.settings["class_names"]}


@pytest.fixture(scope="module")
def context(contexts: dict[str, Context]) -> Context:
    return next(iter(contexts.values()))


@pytest.fixture(scope="module")
def features(reference: Reference, tower: Any) -> list[ImageFeatures]:
    """Of every stored picture, without its views."""
    detector = zsad.create("anovl", backbone=tower, views=False)
    with torch.inference_mode():
        return [detector.encode(image[None]) for image in reference.pixels()]


# ------------------------------------------------------------------ mistakes
def no_input(start: int, attend: Any) -> LocalPath:
    return LocalPath(start, attend, restarts=(1,))


def zero_padded(grid: Tensor) -> Tensor:
    return F.avg_pool2d(grid[:, None], 3, stride=1, padding=1)[:, 0]


def not_corners(grid: Tensor, size: Any, *, align_corners: bool = False) -> Tensor:
    return F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def query_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def clockwise(image: Tensor) -> Tensor:
    return views.views_of(image.transpose(-1, -2)).transpose(-1, -2)


MISTAKES: dict[str, tuple[str, Callable[..., Any], str]] = {
    "the accumulator starts at nothing": ("zsad.methods.anovl.LocalPath", no_input, "zero_shot/grid"),
    "query-key attention": ("zsad.methods.anovl.value_value", query_key, "zero_shot/grid"),
    "zeros around the grid": ("zsad.methods.anovl.mean_3x3", zero_padded, "zero_shot/anomaly_map"),
    "the other align_corners": ("zsad.alignment.tiles.upsample", not_corners, "zero_shot/anomaly_map"),
    "views turned the other way": ("zsad.methods.anovl.views_of", clockwise, "aug_probs"),
}


def failed(reference: Reference, detector: Any, contexts: dict[str, Context]) -> list[str]:
    """Outputs without adaptation that are not the authors'."""
    check = Comparisons(reference)
    with torch.inference_mode():
        proof.zero_shot(check, detector, [detector.encode(image[None]) for image in reference.pixels()], contexts)
    return [one.output for one in check.made if not one.passed]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(
    mistake: str, reference: Reference, tower: Any, contexts: dict[str, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, wrong, output = MISTAKES[mistake]
    detector = zsad.create("anovl", backbone=tower)
    monkeypatch.setattr(place, wrong)
    assert output in failed(reference, detector, contexts)


@pytest.mark.slow
def test_another_activation_is_seen(reference: Reference, tmp_path: Path, contexts: dict[str, Context]) -> None:
    detector = zsad.create("anovl", backbone=proof.backbone(reference, tmp_path, activation="quick_gelu"))
    assert "zero_shot/grid" in failed(reference, detector, contexts)


@pytest.mark.slow
def test_without_a_mistake_nothing_fails(reference: Reference, tower: Any, contexts: dict[str, Context]) -> None:
    assert not failed(reference, zsad.create("anovl", backbone=tower), contexts)


def without_tanh(adapter: token_adapter.TokenAdapter, patches: Tensor) -> Tensor:
    made = F.linear(F.normalize(patches, dim=-1), adapter.weight, adapter.bias)
    return (patches + made @ adapter.bank) / 2  # type: ignore[operator]


def of_any_length(adapter: token_adapter.TokenAdapter, patches: Tensor) -> Tensor:
    assert adapter.bank is not None
    return (patches + F.linear(patches, adapter.weight, adapter.bias).tanh() @ adapter.bank) / 2


ADAPTATIONS: dict[str, tuple[dict[str, Any], Callable[..., Any] | None]] = {
    "as published": ({}, None),
    "an optimizer for each picture": ({"faithful": False}, None),
    "one step less": ({"steps": 4}, None),
    "no tanh": ({}, without_tanh),
    "patches that are not normalised": ({}, of_any_length),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ADAPTATIONS)
def test_mistakes_of_the_adaptation_are_seen(
    mistake: str,
    reference: Reference,
    tower: Any,
    features: list[ImageFeatures],
    contexts: dict[str, Context],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, wrong = ADAPTATIONS[mistake]
    check = Comparisons(reference)
    detector = zsad.create("anovl", backbone=tower, **{"tta": True, "faithful": True, **arguments})
    if wrong is not None:
        monkeypatch.setattr(token_adapter.TokenAdapter, "__call__", wrong)
    proof.adaptation(check, detector, features, contexts, "tta_other_noise")
    assert check.made[0].passed == (mistake == "as published")


# ------------------------------------------------------------------ laws of the adaptation
def maps_of(detector: Any, features: list[ImageFeatures], context: Context) -> Tensor:
    with torch.inference_mode():
        return torch.cat([one.anomaly_map for one in detector.score_set(features, context)])


@pytest.mark.slow
def test_an_adapted_map_is_the_picture_s_own(tower: Any, features: list[ImageFeatures], context: Context) -> None:
    """It depends on no other picture, no order, no batch, no mode and no global random number."""
    detector = zsad.create("anovl", backbone=tower, tta=True)
    assert not detector.needs_set(context)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    maps = maps_of(detector, features, context)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(maps_of(detector, features[::-1], context).flip(0), maps)
    both = ImageFeatures(
        torch.cat([one.image for one in features]),
        streams={
            name: {12: zsad.types.Tap(torch.cat([one.streams[name][12].patches for one in features]), tap[12].grid)}
            for name, tap in features[0].streams.items()
        },
    )
    with torch.no_grad():
        together = detector.score(both, context)
    assert not together.anomaly_map.requires_grad
    torch.testing.assert_close(together.anomaly_map, maps, rtol=0, atol=1e-6)
    assert torch.equal(detector.score(features[0], context).anomaly_map, maps[:1])  # gradients are on here


def test_adaptation_moves_maps_and_no_score(tower: Any, features: list[ImageFeatures], context: Context) -> None:
    plain, adapted, other = (
        zsad.create("anovl", backbone=tower, **one).score(features[0], context)
        for one in ({}, {"tta": True}, {"tta": True, "seed": 1})
    )
    assert torch.equal(adapted.pred_score, plain.pred_score)
    assert float((adapted.anomaly_map - plain.anomaly_map).abs().max()) > 1e-4
    assert float((adapted.anomaly_map - other.anomaly_map).abs().max()) > 1e-5


def test_the_authors_optimizer_makes_the_order_matter(tower: Any, features: list[ImageFeatures], context: Context) -> None:
    detector = zsad.create("anovl", backbone=tower, tta=True, faithful=True)
    alone = zsad.create("anovl", backbone=tower, tta=True)
    assert detector.needs_set(context)
    there, back = maps_of(detector, features, context), maps_of(detector, features[::-1], context).flip(0)
    assert float((there - back).abs().max()) > 1e-5
    torch.testing.assert_close(there[:1], maps_of(alone, features[:1], context))  # the first has no predecessor
    assert torch.equal(maps_of(detector, features, context), there)  # a run that is repeated ends the same
    with pytest.raises(NeedsSet, match="keeps an optimizer from picture to picture: call score_set"):
        detector.score(features[0], context)


def test_without_adaptation_faithful_needs_no_set(tower: Any, context: Context) -> None:
    assert not zsad.create("anovl", backbone=tower, faithful=True).needs_set(context)


def test_first_weights_are_those_of_a_linear_layer() -> None:
    patches = torch.zeros(1, 6, 16)
    weight, bias, noise = token_adapter.first_weights(40, patches, 3, seed=0)
    assert (weight.shape, bias.shape, noise.shape) == ((40, 16), (40,), (3, 1, 6, 16))
    assert 0.2 < float(weight.abs().max()) <= 0.25  # 1 / sqrt(16)
    assert float(noise.std()) == pytest.approx(0.055, rel=0.15)
    again = token_adapter.first_weights(40, patches, 3, seed=0)
    assert all(torch.equal(one, other) for one, other in zip((weight, bias, noise), again, strict=True))


# ------------------------------------------------------------------ text, views, references
def test_names_choose_the_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = zsad.create("anovl", backbone=zsad.load_backbone("tiny"))
    monkeypatch.setattr(detector.backbone, "encode_text", lambda lines: torch.ones(len(lines), 32))
    with torch.inference_mode():
        texture, thing, pasta = (detector.prepare(name) for name in ("leather", "leather strap", "macaroni2"))
    assert texture.sentences["normal"][0] == "a cropped industrial photo of the normal leather"
    assert any("textural" in line for line in texture.sentences["normal"])
    assert any("manufacturing image of a normal leather strap" in line for line in thing.sentences["normal"])
    assert pasta.sentences["anomalous"][0] == "a cropped industrial photo of the damaged macaroni"
    assert "bank" not in texture.extra  # for adaptation alone


def test_the_score_is_the_mean_over_views(tower: Any, reference: Reference, context: Context) -> None:
    image = reference.pixels()[:1]
    with torch.inference_mode():
        found = zsad.create("anovl", backbone=tower)(image, context)
        one = zsad.create("anovl", backbone=tower, views=False)
        single = torch.cat([one(view[None], context).pred_score for view in views.views_of(image[0])])
    assert len(single) == views.VIEWS == 22
    torch.testing.assert_close(found.pred_score, single.mean(dim=0, keepdim=True))


def test_views_by_hand() -> None:
    image = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    found = views.views_of(image)
    assert torch.equal(found[0], image)
    assert torch.equal(found[17], image.flip(-1))
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    torch.testing.assert_close(found[18], grey.expand(3, 9, 9))
    assert torch.equal(found[20], image.flip(-1).flip(-2))
    assert float((found[:, :, 4, 4] - image[:, 4, 4])[1:9].abs().max()) < 1e-6  # turns leave the centre
    wide = torch.arange(21.0).expand(3, 21, 21)  # a shift of 0.2 is a tenth of the way from edge to edge
    torch.testing.assert_close(views.views_of(wide)[9, :, 5, :19], wide[:, 5, 2:])


def test_a_picture_that_is_its_own_reference(tower: Any, reference: Reference, features: list[ImageFeatures]) -> None:
    detector = zsad.create("anovl", backbone=tower, views=False)
    text = reference.tensor("text_features_0").T[None]
    with torch.inference_mode():
        banks = detector.banks(zsad.References(reference.pixels()[:1]))
        own, alone = (detector.score(features[0], Context(text, banks=one)) for one in (banks, {}))
    torch.testing.assert_close(own.anomaly_map, alone.anomaly_map / 2, rtol=0, atol=1e-6)


# ------------------------------------------------------------------ pictures and tiles
def test_pictures_are_resized_bilinearly(tower: Any) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (150, 110, 3), dtype=np.uint8)
    own = zsad.create("anovl", backbone=tower).preprocess(rgb)
    assert own.shape == (3, 112, 112)
    assert float((own - tower.preprocess(rgb)).abs().max()) > 0.05
    tiled = zsad.create("anovl", backbone=tower, tiles=True)
    assert tiled.preprocess(rgb).shape == (3, 152, 112)
    assert tiled.preprocess(rgb.transpose(1, 0, 2)).shape == (3, 112, 152)


def test_tiles_join_where_they_were_cut() -> None:
    image = torch.rand(2, 3, 40, 90, generator=torch.Generator().manual_seed(0))
    for one in (image, image.transpose(-1, -2)):
        assert tiles.cut_tiles(one).shape == (2, 3, 3, 40, 40)  # longer than two squares: three
        size = (one.shape[-2], one.shape[-1])
        torch.testing.assert_close(tiles.join_grids(tiles.cut_tiles(one), size), one)
    grids = torch.stack([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)], dim=1)
    joined = tiles.join_grids(grids, (8, 12))[0, 0]
    assert joined[0].tolist() == [0.0] * 4 + [0.5] * 4 + [1.0] * 4
    assert tiles.cut_tiles(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 3, 8, 8)


def test_a_square_in_two_equal_tiles_is_the_picture(tower: Any, reference: Reference, context: Context) -> None:
    image = reference.pixels()[:1]
    with torch.inference_mode():
        one, two = (
            zsad.create("anovl", backbone=tower, **given)(image, context) for given in ({"views": False}, {"tiles": True})
        )
    torch.testing.assert_close(two.anomaly_map, one.anomaly_map)
    torch.testing.assert_close(two.pred_score, one.pred_score)


def test_tiles_take_no_references(tower: Any, reference: Reference) -> None:
    detector = zsad.create("anovl", backbone=tower, tiles=True)
    with pytest.raises(UsageError, match="tiles=True takes no references. Leave them out"):
        detector.prepare("nut", zsad.References(reference.pixels()[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"tiles": True}, {"tiles": True, "tta": True}, {"tta": True, "views": False}])
def test_pictures_of_any_shape_through_an_inspector(arguments: dict[str, Any]) -> None:
    """Tiled pictures of different shapes share no batch, and their scores are those of each alone."""
    rng = np.random.default_rng(0)
    shapes = ((60, 90), (60, 90), (90, 60), (40, 120))
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    backbone = zsad.load_backbone("tiny", image_size=80)
    few = {"prompts": "adaclip", **arguments}  # 48 sentences
    inspector = zsad.Inspector("anovl", backbone=backbone, target="nut", batch_size=4, device="cpu", **few)
    found = list(inspector(pictures))
    assert [one.anomaly_map.shape for one in found] == list(shapes)
    assert all(one.error is None for one in found)
    alone = [next(iter(inspector([picture]))) for picture in pictures]
    np.testing.assert_allclose([one.pred_score for one in found], [one.pred_score for one in alone], atol=1e-5)
    again = list(inspector.rescore(inspector.encode(pictures)))
    np.testing.assert_allclose([one.pred_score for one in again], [one.pred_score for one in found], atol=1e-5)
