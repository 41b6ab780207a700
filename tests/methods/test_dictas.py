"""DictAS's look-up, laws, training and checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment import sparse_lookup
from zsad.alignment.losses import lookup_losses
from zsad.alignment.sparse_lookup import look_up, sparsemax
from zsad.errors import NeedsSet, UsageError
from zsad.references.derived import derived
from zsad.references.memory_bank import leave_out
from zsad.types import Bank, Batch, References
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import dictas as proof
from zsad.verification.reference import Reference

SIDE = 80  # of the tiny backbone's pictures; 5 x 5 patches


@pytest.fixture(scope="module")
def tiny() -> Any:
    torch.manual_seed(0)
    backbone = zsad.load_backbone("tiny", activation="gelu", position_embedding="bicubic_antialias")
    detector = zsad.create("dictas", backbone=backbone)
    detector.trained = True
    return detector


@pytest.fixture(scope="module")
def text(tiny: Any) -> Any:
    return tiny.prepare("nut")


def pictures(count: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def with_shots(detector: Any, text: Any, images: torch.Tensor) -> Any:
    with torch.no_grad():
        return replace(text, banks=detector.banks(References(images)))


# ------------------------------------------------------------------ pieces
def by_sorting(row: torch.Tensor) -> torch.Tensor:
    """Sparsemax as its paper's algorithm 1 states it, in float64."""
    ordered, total = sorted(row.double().tolist(), reverse=True), 0.0
    threshold = 0.0
    for count, value in enumerate(ordered, 1):
        total += value
        if 1 + count * value > total:
            threshold = (total - 1) / count
    return (row.double() - threshold).clamp(min=0)


@pytest.mark.parametrize("spread", [0.001, 0.1, 3.0])  # all 300 places have a weight, some, few
def test_sparsemax_by_hand(spread: float) -> None:
    logits = 7 + spread * torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    found = sparsemax(logits)
    for row, weights in zip(logits, found, strict=True):
        torch.testing.assert_close(weights.double(), by_sorting(row), rtol=0, atol=2e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(4))
    torch.testing.assert_close(sparsemax(logits + 100), found, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [5, 2048, 2049, 5001])  # no groups, and groups with and without a rest
def test_the_highest_are_those_of_topk(size: int) -> None:
    logits = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(2))
    count = min(64, size)
    values, places = sparse_lookup._highest(logits, count)
    expected = logits.topk(count, dim=-1)
    assert torch.equal(values, expected.values)
    assert torch.equal(places, expected.indices)


def test_gradients_of_sparsemax() -> None:
    logits = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparsemax, [logits])


@pytest.mark.parametrize("block", [1, 100, 10_000])
def test_the_look_up_is_weights_times_values(block: int) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, keys, values = (torch.randn(n, 8, generator=generator) for n in (7, 90, 90))
    expected = sparsemax(queries @ keys.T / 8**0.5) @ values
    torch.testing.assert_close(look_up(queries, keys, values, block), expected)


def test_lookup_losses_by_hand() -> None:
    distances = torch.tensor([[[0.4, 0.2, 0.1, 0.3], [0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.8, 0.8]]])
    masks = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]]).float().view(3, 2, 2)
    near, above = lookup_losses(distances, masks, (2, 2))
    assert near.item() == pytest.approx((0.3 + 0.1 + 0.2) / 3)
    assert above.item() == pytest.approx(0.3 - 0.2)  # the first picture alone: the second has no defect, the third none above
    near, above = lookup_losses(distances, torch.ones(3, 2, 2), (2, 2))
    assert (near.item(), above.item()) == (0, 0)


def test_what_is_derived_follows_rows_and_weights() -> None:
    module, calls = torch.nn.Linear(2, 2), []
    rows = torch.zeros(3, 2)

    def make() -> int:
        calls.append(1)
        return len(calls)

    with torch.no_grad():
        assert [derived(rows, module, "a", make) for _ in range(3)] == [1, 1, 1]
        assert derived(rows, module, "b", make) == 2
        assert derived(rows.clone(), module, "a", make) == 3
        module.weight.add_(1)
        assert [derived(rows, module, "a", make) for _ in range(2)] == [4, 4]
    assert derived(rows, module, "a", make) == 5  # gradients are on


# ------------------------------------------------------------------ laws
def test_scores_do_not_depend_on_the_batch(tiny: Any, text: Any) -> None:
    images, context = pictures(4), with_shots(tiny, text, pictures(2, seed=5))
    with torch.inference_mode():
        together = tiny(images, context)
        for index in range(4):
            alone = tiny(images[index : index + 1], context)
            torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[index : index + 1], rtol=0, atol=1e-5)
    assert not tiny.needs_set(context)


def test_the_order_of_references_does_not_matter(tiny: Any, text: Any) -> None:
    shown, images = pictures(3, seed=5), pictures(2)
    with torch.inference_mode():
        found = [tiny(images, with_shots(tiny, text, some)).anomaly_map for some in (shown, shown.flip(0))]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_a_reference_that_is_left_out_is_gone(tiny: Any, text: Any) -> None:
    shown, images = pictures(3, seed=5), pictures(2)
    whole = with_shots(tiny, text, shown)
    with torch.inference_mode():
        before = tiny(images, whole).anomaly_map  # its dictionary is kept
        less = replace(whole, banks={key: leave_out(bank, 1) for key, bank in whole.banks.items()})
        found = tiny(images, less).anomaly_map
        expected = tiny(images, with_shots(tiny, text, shown[[0, 2]])).anomaly_map
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (found - before).abs().max() > 1e-4


def test_image_score_is_text_and_map(tiny: Any, text: Any) -> None:
    context, images = with_shots(tiny, text, pictures(1, seed=5)), pictures(2)
    with torch.inference_mode():
        features, found = tiny.encode(images), tiny(images, context)
        by_hand = 0.5 * tiny.text_score(features, context) + 0.5 * 2 * found.anomaly_map.amax((1, 2))
    torch.testing.assert_close(found.pred_score, by_hand)
    assert 0 <= found.anomaly_map.min() <= found.anomaly_map.max() <= 1


def test_faithful_scales_within_the_set(tiny: Any, text: Any) -> None:
    faithful = zsad.create("dictas", backbone=tiny.backbone, faithful=True)
    faithful.load_learned(tiny.learned_state())
    context = with_shots(faithful, text, pictures(1, seed=5))
    with torch.inference_mode():
        features = faithful.encode(pictures(4))
        parts = [features[i : i + 1] for i in range(4)]
        found = torch.cat([one.pred_score for one in faithful.score_set(parts, context)])
        less = torch.cat([one.pred_score for one in faithful.score_set(parts[:3], context)])
        assert faithful.needs_set(context)
        with pytest.raises(NeedsSet, match=r"dictas with faithful=True scales its image score .* or leave faithful=True out"):
            faithful.score(features, context)
    assert 0 <= found.min() <= found.max() <= 1
    assert not torch.allclose(found[:3], less, atol=1e-3)


def test_layers_that_are_not_scored_are_not_kept(tiny: Any, text: Any) -> None:
    few = zsad.create("dictas", backbone=tiny.backbone, scored=(3, 6))
    assert (few.layers, few.compared) == ((3, 6, 9, 12), (3, 6))
    with torch.inference_mode():
        features = few.encode(pictures(1))
        torch.testing.assert_close(features.image, tiny.encode(pictures(1)).image)
    assert features.taps.keys() == {3, 6}
    assert with_shots(few, text, pictures(1)).banks.keys() == {"3", "6"}
    assert few.encode_for_loss(pictures(1)).taps.keys() == {3, 6, 9, 12}


def test_bad_input(tiny: Any, text: Any) -> None:
    with pytest.raises(UsageError, match=r"scales=\(2,\): neighbourhoods have odd sides"):
        zsad.create("dictas", backbone=tiny.backbone, scales=(2,))
    with pytest.raises(UsageError, match=r"alpha=1\.5 of dictas is the text's part"):
        zsad.create("dictas", backbone=tiny.backbone, alpha=1.5)
    with torch.no_grad():
        features = tiny.encode(pictures(1))
        with pytest.raises(UsageError, match="dictas compares pictures with normal references and needs 1 or more; got 0"):
            tiny.score(features, text)
        few = {key: Bank(bank.rows[:7], bank.source[:7]) for key, bank in with_shots(tiny, text, pictures(1)).banks.items()}
        with pytest.raises(UsageError, match="whole reference images here. Leave coreset out"):
            tiny.score(features, replace(text, banks=few))
    with pytest.raises(UsageError, match="dictas takes normal references only"):
        tiny.prepare("nut", References(pictures(1), anomalous=pictures(1)))


# ------------------------------------------------------------------ training
def step(count: int = 2, references: int = 1) -> Batch:
    masks = torch.zeros(count, SIDE, SIDE)
    masks[1::2, :40, :40] = 1
    drawn = pictures(count * references, seed=8) if references else None
    return Batch(pictures(count), torch.arange(count) % 2, masks, ("x",) * count, references=drawn)


def test_each_picture_has_its_own_references(tiny: Any) -> None:
    batch = step(2, references=2)
    found = tiny.looked_up(batch)[3].found
    for index in range(2):
        own = slice(2 * index, 2 * index + 2)
        assert isinstance(batch.images, torch.Tensor)
        assert isinstance(batch.references, torch.Tensor)
        one = replace(batch, images=batch.images[index : index + 1], references=batch.references[own])
        torch.testing.assert_close(tiny.looked_up(one)[3].found[:, 0], found[:, index], rtol=0, atol=1e-5)


def test_phases(tiny: Any, text: Any) -> None:
    first = tiny.loss(step(), text)
    tiny.start_phase(1)
    second = tiny.loss(step(), text)
    tiny.start_phase(0)
    assert tiny.loss(step(), text)["normal"] == first["normal"] != second["normal"]
    assert first.keys() == {"normal", "above", "picture", "retrieved"}
    learned = [key for key in tiny.learned_state() if key.startswith(tuple(tiny.schedule.phases[1].rates))]
    assert set(tiny.learned_state()) - set(learned) == {key for key in tiny.learned_state() if ".value." in key}


def test_cached_features_train_alike(tiny: Any, text: Any) -> None:
    batch = step()
    cached = replace(batch, images=tiny.encode_for_loss(batch.images), references=tiny.encode_for_loss(batch.references))
    plain, stored = tiny.loss(batch, text), tiny.loss(cached, text)
    for key, part in plain.items():
        torch.testing.assert_close(stored[key], part)


@pytest.mark.parametrize("change", [{"masks": None}, {"references": None}])
def test_a_batch_without_masks_or_references(change: dict[str, Any], tiny: Any, text: Any) -> None:
    with pytest.raises(UsageError, match="masks and references; got a batch without. Give every picture both"):
        tiny.loss(replace(step(), **change), text)


# ------------------------------------------------------------------ the authors' files, and plausible mistakes
@pytest.fixture(scope="module")
def contexts(stored: tuple[Reference, Any, Path]) -> Any:
    reference, tower, folder = stored
    with torch.no_grad():
        return proof.texts(reference, proof.build(reference, tower, folder))


def test_wrong_files_are_refused(refuses: Any, stored: tuple[Reference, Any, Path]) -> None:
    reference, tower, folder = stored
    path = proof.write_checkpoint(reference, folder / "wrong.pth")
    good = torch.load(path, weights_only=True)["Mymodel"]

    refused = refuses(tower, good, "Mymodel")
    refused({"Key_Generator.q_proj.weight": None}, r"missing: generators\.key\.q_proj\.weight")
    refused({"Fuse_Feature.surplus": torch.zeros(1)}, r"unexpected: fusion\.surplus")
    refused({"Fuse_Feature.compress.bias": torch.zeros(2)}, r"fusion\.compress\.bias is \(2,\) instead of \(1,\)")


def test_the_published_shapes(stored: tuple[Reference, Any, Path]) -> None:
    """All names of the authors' file become ours, at the shapes of a ViT-L."""
    shapes = stored[0].settings["checkpoint_schema_real_sizes"]
    own = proof.build(*stored).authors_file.own_names({"Mymodel": shapes})
    assert own.keys() == proof.build(*stored).learned_state().keys()
    assert own["fusion.fuse_modules.weight"] == [512, 4 * 1024]


def no_mistake(patch: pytest.MonkeyPatch) -> None:
    """The comparison as it is."""


def softmax(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.references.patch_dictionary.look_up", lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).softmax(dim=-1) @ v)


def corners_not_aligned(patch: pytest.MonkeyPatch) -> None:
    plain = zsad.alignment.maps.upsample
    patch.setattr("zsad.methods.dictas.upsample", lambda grid, size, align_corners: plain(grid, size))


def padding_left_out(patch: pytest.MonkeyPatch) -> None:
    def means(x: torch.Tensor, sides: tuple[int, ...]) -> torch.Tensor:
        planes = x.permute(0, 3, 1, 2)
        pooled = [F.avg_pool2d(planes, r, 1, r // 2, count_include_pad=False) for r in sides]
        return torch.stack(pooled).permute(0, 1, 3, 4, 2)

    patch.setattr("zsad.references.patch_dictionary.neighbourhood_means", means)


def queries_as_they_are(patch: pytest.MonkeyPatch) -> None:
    plain = zsad.references.patch_dictionary.PatchDictionary.forward
    patch.setattr(
        "zsad.references.patch_dictionary.PatchDictionary.forward",
        lambda self, tap, entries: plain(self, tap, entries, values_first=False),
    )


def no_residual(patch: pytest.MonkeyPatch) -> None:
    plain = zsad.alignment.token_generator.TokenGenerator.forward
    patch.setattr(
        "zsad.alignment.token_generator.TokenGenerator.forward", lambda self, x: plain(self, x) - (x if self.residual else 0)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "arguments"),
    [
        (no_mistake, {}),
        (softmax, {}),
        (corners_not_aligned, {}),
        (padding_left_out, {}),
        (queries_as_they_are, {}),
        (no_residual, {}),
        (no_mistake, {"sigma": 4.0}),
        (no_mistake, {"scored": (6, 12, 18, 23)}),
        (no_mistake, {"alpha": 0.5}),
    ],
)
def test_mistakes_are_seen(
    mistake: Callable[[pytest.MonkeyPatch], None],
    arguments: dict[str, Any],
    stored: tuple[Reference, Any, Path],
    contexts: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, tower, folder = stored
    mistake(monkeypatch)
    check = Comparisons(reference)
    with torch.inference_mode():
        proof.outputs(check, tower, folder, contexts, "k2/", {}, **arguments)
    assert all(one.passed for one in check.made) == (mistake is no_mistake and not arguments)
