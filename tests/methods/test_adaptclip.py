"""AdaptCLIP's branches, laws, training and checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment.maps import average
from zsad.alignment.residual_adapter import ResidualAdapter
from zsad.errors import CheckpointMismatch, NotTrained, UsageError
from zsad.references.prompt_query import PromptQuery, nearest_rows
from zsad.types import Batch, References
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import adaptclip as proof
from zsad.verification.reference import Reference

SIDE = 80  # of the tiny backbone's pictures; 5 x 5 patches


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def tiny() -> Any:
    torch.manual_seed(0)
    backbone = zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bilinear")
    return zsad.create("adaptclip", backbone=backbone)


@pytest.fixture(scope="module")
def context(tiny: Any) -> zsad.Context:
    """With one fixed sentence each in place of 231."""
    with torch.no_grad():
        text = tiny.backbone.encode_text(["a photo of the object.", "a photo of the damaged object."])
        return zsad.Context(text[None], extra={"learned": tiny.prompts.encode(tiny.backbone, half=False)})


def pictures(count: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def with_shots(detector: Any, context: Any, images: torch.Tensor) -> Any:
    return replace(context, banks=detector.banks(References(images)))


# ------------------------------------------------------------------ pieces
def test_an_adapter_adds_to_what_it_is_given() -> None:
    adapter, x = ResidualAdapter(8, 2, norm=True).eval(), torch.randn(3, 5, 8)
    torch.nn.init.zeros_(adapter.fc[3].weight)
    assert torch.equal(adapter(x), x)


def test_one_row_takes_the_running_statistics() -> None:
    adapter, row = ResidualAdapter(8, 4, norm=True), torch.randn(1, 8)
    expected = adapter.eval()(row)
    adapter.train()
    torch.testing.assert_close(adapter(row), expected)
    assert int(adapter.fc[1].num_batches_tracked) == 0
    adapter(torch.randn(2, 8))
    assert int(adapter.fc[1].num_batches_tracked) == 1


def test_the_nearest_row_by_hand() -> None:
    queries, rows = (F.normalize(torch.randn(2, count, 6), dim=-1) for count in (7, 11))
    table = queries @ rows.transpose(1, 2)
    for block in (1, 25, 10_000):
        cosine, index = nearest_rows(queries, rows, block)
        torch.testing.assert_close(cosine, table.amax(2))
        assert torch.equal(index, table.argmax(2))
    shared = nearest_rows(queries, rows[:1])[0]
    torch.testing.assert_close(shared[1], (queries[1] @ rows[0].T).amax(1))


def test_the_harmonic_mean_is_zero_where_one_is() -> None:
    found = average([torch.tensor([0.5, 0.0, 1.0]), torch.tensor([1.0, 0.7, 1.0])], "harmonic")
    torch.testing.assert_close(found, torch.tensor([2 / 3, 0.0, 1.0]))


def test_heads_see_the_difference_alone_without_context() -> None:
    query, patches = PromptQuery(8, 4, 1, context=False).eval(), torch.randn(1, 25, 8)
    other = F.normalize(torch.randn(1, 25, 8), dim=-1)
    same = [query(0, one, (5, 5), one) for one in (patches, other)]
    torch.testing.assert_close(same[0].grid, same[1].grid, rtol=0, atol=1e-5)
    assert same[0].grid.shape == (1, 2, 20, 20)


# ------------------------------------------------------------------ laws
@pytest.mark.slow
def test_sentences(tiny: Any) -> None:
    context = tiny.prepare("nut")
    assert tiny.prompts.sentences() == ("X X X X X X X X X X X X.",) * 2
    assert [len(context.sentences[key]) for key in ("normal", "anomalous")] == [147, 84]
    assert "object" in context.sentences["normal"][0]
    assert not any("nut" in line for lines in context.sentences.values() for line in lines)


def test_layers_follow_the_depth(tiny: Any) -> None:
    assert tiny.layers == (3, 6, 9, 12)
    with pytest.raises(UsageError, match=r"taps=\(13,\) of adaptclip must lie in 1\.\.12"):
        zsad.create("adaptclip", backbone=tiny.backbone, taps=(13,))


def test_zero_shot_is_the_mean_of_both_branches(tiny: Any, context: Any) -> None:
    with torch.inference_mode():
        features = tiny.encode(pictures())
        found = tiny.score(features, context)
        visual, textual = tiny.branches(features, context.text, context.extra["learned"]).values()
    by_hand = (visual.image_probability() + textual.image_probability() + found.anomaly_map.amax((1, 2))) / 3
    torch.testing.assert_close(found.pred_score, by_hand)


def test_scores_do_not_depend_on_the_batch(tiny: Any, context: Any) -> None:
    images = pictures(4)
    with torch.inference_mode():
        for own in (context, with_shots(tiny, context, pictures(2, seed=5))):
            together = tiny(images, own)
            for index in range(4):
                alone = tiny(images[index : index + 1], own)
                torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], rtol=0, atol=1e-5)
                torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[index : index + 1], rtol=0, atol=1e-5)


def test_a_picture_among_its_references_scores_zero(tiny: Any, context: Any) -> None:
    """The published code divides by sums of rounding errors of both signs here."""
    images = pictures(2)
    with torch.inference_mode():
        found = tiny(images, with_shots(tiny, context, images))
    assert found.pred_score.abs().max() < 1e-5
    assert found.anomaly_map.min() >= 0
    assert found.anomaly_map.max() < 1e-5


def test_untrained_weights_do_not_score(tiny: Any) -> None:
    with pytest.raises(NotTrained, match="adaptclip has no learned weights yet"):
        zsad.Inspector(tiny)


# ------------------------------------------------------------------ training
def step(count: int, references: int = 1) -> Batch:
    labels, masks = torch.arange(count) % 2, torch.zeros(count, SIDE, SIDE)
    masks[1::2, :20, :20] = 1
    drawn = pictures(count * references, seed=8) if references else None
    return Batch(pictures(count), labels, masks, ("x",) * count, references=drawn)


def test_parts_of_the_loss(tiny: Any, context: Any) -> None:
    assert tiny.schedule.references == 1
    terms = {"picture", "focal", "dice", "dice normal"}
    everywhere = {f"{branch} {term}" for branch in ("visual", "textual") for term in terms}
    compared = {f"query {layer} {term}" for layer in tiny.layers for term in terms}
    assert tiny.loss(step(2), context).keys() == everywhere | compared
    assert tiny.loss(step(2, references=0), context).keys() == everywhere
    unmasked = tiny.loss(replace(step(2), masks=None), context)
    assert unmasked.keys() == {key for key in everywhere | compared if key.endswith("picture")}


def test_cached_features_train_alike(tiny: Any, context: Any) -> None:
    batch = step(2, references=2)
    cached = replace(batch, images=tiny.encode(batch.images), references=tiny.encode(batch.references))
    plain, stored = tiny.loss(batch, context), tiny.loss(cached, context)
    for key, part in plain.items():
        torch.testing.assert_close(stored[key], part)


def test_each_picture_has_its_own_references(tiny: Any, context: Any) -> None:
    batch = step(2, references=2)
    whole = tiny.encode(batch.references).streams["local"][12].patches
    rows = {layer: whole.reshape(2, -1, whole.shape[2]) for layer in tiny.layers}
    features = tiny.encode(batch.images)
    found = tiny.query.compare(features.streams["local"], rows)[12]
    for index in range(2):
        own = {layer: whole[2 * index : 2 * index + 2].flatten(0, 1)[None] for layer in tiny.layers}
        alone = tiny.query.compare(features[index : index + 1].streams["local"], own)[12]
        torch.testing.assert_close(found.distance[index], alone.distance[0])


def test_a_step_of_one_picture_in_training_mode(tiny: Any, context: Any) -> None:
    before = {key: tensor.clone() for key, tensor in tiny.learned_state().items()}
    for name in tiny.train_mode:
        getattr(tiny, name).train()
    try:
        losses = tiny.loss(step(1), context)
        assert all(torch.isfinite(part) for part in losses.values())
        changed = [key for key, tensor in tiny.learned_state().items() if not torch.equal(tensor, before[key])]
        assert "query.norms.0.running_mean" in changed
        assert "global_adapter.fc.1.running_mean" not in changed
    finally:
        tiny.eval()
        tiny.load_learned(before)
        tiny.trained = False


# ------------------------------------------------------------------ the authors' files, and plausible mistakes
def test_the_last_copy_of_a_head_is_loaded(stored: tuple[Reference, Any, Path]) -> None:
    reference, tower, folder = stored
    state = torch.load(proof.write_learners(reference, tower, folder / "copies.pth"), weights_only=True)
    for key, tensor in state["pq_learner"].items():
        if "_adapter.0." in key:
            tensor.zero_()
    torch.save(state, folder / "copies.pth")
    found = zsad.create("adaptclip", backbone=tower, checkpoint=folder / "copies.pth")
    assert (found.tokens, found.reduction, found.middle) == (12, 4, reference.settings["settings"]["pq_mid_dim"])
    assert torch.equal(found.query.local_adapter[0].weight, state["pq_learner"]["local_adapter.3.0.weight"])
    assert found.trained


def test_wrong_files_are_refused(stored: tuple[Reference, Any, Path]) -> None:
    reference, tower, folder = stored
    path = proof.write_learners(reference, tower, folder / "wrong.pth")
    good = torch.load(path, weights_only=True)

    def refused(change: dict[str, dict[str, Any]], message: str, **arguments: Any) -> None:
        state = {group: {**tensors, **change.get(group, {})} for group, tensors in good.items()}
        kept = {group: {key: one for key, one in tensors.items() if one is not None} for group, tensors in state.items()}
        torch.save(kept, path)
        with pytest.raises(CheckpointMismatch, match=message):
            zsad.create("adaptclip", backbone=tower, checkpoint=path, **arguments)

    refused({"pq_learner": {"sharebn.0.weight": None}}, r"missing: query\.norms\.0\.weight")
    refused({"visual_learner": {"local_adapter.fc.0.weight": torch.zeros(1)}}, r"has local_adapter\.fc\.0\.weight twice")
    refused({"visual_learner": {"surplus": torch.zeros(1)}}, r"unexpected: visual_learner\.surplus")
    refused({"textual_learner": {"token_prefix_pos": torch.zeros(1, 1, 1, 128)}}, "the start token differs")
    refused({}, r"prompts\.normal is \(12, 128\) instead of \(8, 128\)", tokens=8)
    refused({"textual_learner": {"ctx_neg": None}}, r"missing: prompts\.anomalous")


def no_mistake(patch: pytest.MonkeyPatch) -> None:
    """The comparison as it is."""


def corners_aligned(patch: pytest.MonkeyPatch) -> None:
    plain = zsad.alignment.branches.upsample
    patch.setattr("zsad.alignment.branches.upsample", lambda grid, size: plain(grid, size, align_corners=True))


def softmax_behind_the_resize(patch: pytest.MonkeyPatch) -> None:
    def late(self: Any, size: int) -> torch.Tensor:
        return F.interpolate(self.grid, size=size, mode="bilinear").softmax(1)[:, 1]

    patch.setattr("zsad.alignment.branches.Branch.probability_map", late)


def plain_mean_of_distances(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.references.prompt_query.average", lambda parts, kind="mean": average(parts))


def batch_statistics(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: F.batch_norm(x, None, None, self.weight, self.bias, True))


def no_visual_adapter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.alignment.residual_adapter.ResidualAdapter.forward", lambda self, x: x)


def normed_class_token(patch: pytest.MonkeyPatch) -> None:
    plain = zsad.backbones.vit.VisionTransformer.project
    patch.setattr(
        "zsad.backbones.vit.VisionTransformer.project", lambda self, x, norm=True, proj=True: plain(self, x, proj=proj)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "arguments"),
    [
        (no_mistake, {}),
        (corners_aligned, {}),
        (softmax_behind_the_resize, {}),
        (plain_mean_of_distances, {}),
        (batch_statistics, {}),
        (no_visual_adapter, {}),
        (normed_class_token, {}),
        (no_mistake, {"context": False}),
        (no_mistake, {"local_start": 24}),
    ],
)
def test_mistakes_are_seen(
    mistake: Callable[[pytest.MonkeyPatch], None],
    arguments: dict[str, Any],
    stored: tuple[Reference, Any, Path],
    fixed: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, tower, folder = stored
    detector = proof.build(reference, tower, folder, **arguments)
    mistake(monkeypatch)
    check = Comparisons(reference)
    with torch.inference_mode():
        learned = detector.prompts.encode(tower, half=False)
        context = zsad.Context(fixed, extra={"learned": learned})
        proof.outputs(check, detector, detector.encode(reference.pixels()), context, "k1/")
    assert all(one.passed for one in check.made) == (mistake is no_mistake and not arguments)


@pytest.fixture(scope="module")
def fixed(stored: tuple[Reference, Any, Path]) -> torch.Tensor:
    """Text of the fixed sentences, which no mistake here touches."""
    reference, tower, folder = stored
    with torch.no_grad():
        text: torch.Tensor = proof.build(reference, tower, folder).prepare().text
    return text
