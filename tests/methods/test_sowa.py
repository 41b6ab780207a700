"""SOWA's laws and its checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment import maps
from zsad.alignment.windows import join_windows, split_windows
from zsad.backbones import blocks, openclip, window_adapter
from zsad.errors import CheckpointMismatch, NeedsSet, NotTrained, UsageError
from zsad.types import Batch
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import sowa as proof
from zsad.verification.reference import Reference

COPIES = (
    "net.clip_model",
    "net.text_encoder",
    "net.prompt_learner.clip_model",
    "net.visual_encoder.clip_model",
)  # of the frozen CLIP


@pytest.fixture(scope="module")
def tiny() -> Any:
    """Untrained adapters on the tiny backbone, whose grid is 4 x 4."""
    torch.manual_seed(0)
    return zsad.create("sowa", backbone=zsad.load_backbone("tiny", activation="quick_gelu", image_size=64))


def pictures(count: int = 3, seed: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ windows
def test_windows_part_the_grid() -> None:
    x = torch.arange(24.0).view(1, 24, 1).repeat(2, 1, 1)  # 4 rows, 6 columns
    windows = split_windows(x, (4, 6), 2)
    assert windows.shape == (12, 4, 1)
    assert windows[:2, :, 0].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert torch.equal(join_windows(windows, (4, 6), 2), x)


def test_window_side() -> None:
    assert [window_adapter.half_of((side, side)) for side in (24, 8, 7, 2)] == [12, 4, 7, 1]


def test_position_bias_by_a_loop(tiny: Any) -> None:
    """Of every pair of places, the network's answer for their offset, query less key."""
    adapter, side = tiny.adapters[0], 3
    offsets, found = window_adapter.relative_offsets(side), adapter.position_bias(side)
    for query in range(9):
        for key in range(9):
            row, column = query // side - key // side, query % side - key % side
            expected = 16 * adapter.positions(offsets[row + side - 1, column + side - 1]).sigmoid()
            torch.testing.assert_close(found[:, query, key], expected)
    assert offsets[2, 2].tolist() == [0, 0]
    assert float(offsets[4, 0, 0]) == pytest.approx(torch.log2(torch.tensor(9.0)) / 3)


def test_a_window_sees_nothing_outside(tiny: Any) -> None:
    adapter, frozen = tiny.adapters[0], tiny.backbone.visual.blocks[0].attn
    x = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[:, 15] += 1  # the last window's last patch
    with torch.inference_mode():
        change = (adapter(other, (4, 4), 2, frozen) - adapter(x, (4, 4), 2, frozen)).abs().amax(dim=-1)[0]
    moved = set(change.nonzero().flatten().tolist())
    assert moved == {10, 11, 14, 15}


def test_dropout_in_training_alone(tiny: Any) -> None:
    assert tiny.train_mode == ("adapters",)
    features, visual = tiny.encode(pictures(1)), tiny.backbone.visual
    try:
        tiny.adapters.train()
        one, other = (tiny.adapters.projected(features.taps, visual)[3] for _ in range(2))
        assert not torch.equal(one, other)
    finally:
        tiny.adapters.eval()
    one, other = (tiny.adapters.projected(features.taps, visual)[3] for _ in range(2))
    assert torch.equal(one, other)


# ------------------------------------------------------------------ scores
def test_layers_scale_and_the_name_changes_nothing(tiny: Any) -> None:
    assert tiny.layers == (3, 6, 9, 12)
    assert tiny.map_range == (0.0, 4.0)
    assert torch.equal(tiny.prepare("nut").text, tiny.prepare("banana").text)


def test_a_picture_is_scored_by_itself_by_default(tiny: Any) -> None:
    shown, images = zsad.References(pictures(2, seed=9)), pictures(4)
    with torch.inference_mode():
        context = tiny.prepare("nut", shown)
        assert not tiny.needs_set(context)
        assert tiny.scales_within_set(context) == ""
        together = tiny(images, context)
        for index in range(4):
            alone = tiny(images[index : index + 1], context)
            torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], rtol=0, atol=1e-5)
        features = tiny.encode(images)
        text, found = tiny.text_score(features, context), tiny.anomaly_map(features, context)
    torch.testing.assert_close(together.pred_score, 0.5 * text + 0.5 * (found.amax(dim=(1, 2)) - 2) / 4)


def test_the_authors_score_needs_the_set(tiny: Any) -> None:
    faithful = zsad.create("sowa", backbone=tiny.backbone, faithful=True)
    faithful.load_learned(tiny.learned_state())
    with torch.inference_mode():
        context = faithful.prepare("nut", zsad.References(pictures(1, seed=9)))
        assert not faithful.needs_set(faithful.prepare("nut"))
        assert faithful.scales_within_set(context) == "leave faithful=True out"
        with pytest.raises(NeedsSet, match=r"sowa with references and faithful=True scales.*or leave faithful=True out\."):
            faithful(pictures(), context)
        features = [faithful.encode(pictures()[i : i + 1]) for i in range(3)]
        found = list(faithful.score_set(features, context))
        highest = torch.stack([one.anomaly_map.max() for one in found])
        texts = torch.cat([faithful.text_score(one, context) for one in features])
    by_hand = 0.5 * (texts + (highest - highest.min()) / (highest.max() - highest.min()))
    torch.testing.assert_close(torch.cat([one.pred_score for one in found]), by_hand)


def test_distances_are_added_behind_the_gaussian(tiny: Any) -> None:
    with torch.inference_mode():
        features, shown = tiny.encode(pictures()), zsad.References(pictures(1, seed=9))
        plain, few = tiny.anomaly_map(features, tiny.prepare()), tiny.anomaly_map(features, tiny.prepare("nut", shown))
        summed = torch.stack([*tiny.distances(features, tiny.prepare("nut", shown)).values()]).sum(dim=0)
    torch.testing.assert_close(few - plain, tiny.pixels(summed, features), rtol=0, atol=1e-5)


def test_loss_parts(tiny: Any) -> None:
    images, labels = pictures(2), torch.tensor([0, 1])
    masks = torch.zeros(2, 64, 64)
    masks[1, :20, :20] = 1
    context = tiny.prepare()
    without = tiny.loss(Batch(images, labels, None, ("nut",) * 2), context)
    whole = tiny.loss(Batch(images, labels, masks, ("nut",) * 2), context)
    assert set(without) == {"picture"}
    assert set(whole) == {"picture"} | {f"{kind} {n}" for kind in ("focal", "dice", "dice normal") for n in tiny.layers}
    cosine = F.normalize(tiny.encode(images).image, dim=-1) @ context.text[0].T / 0.07
    torch.testing.assert_close(without["picture"], F.cross_entropy(cosine.softmax(dim=-1), labels))
    plain = zsad.create("sowa", backbone=tiny.backbone, softmax_twice=False)
    plain.load_learned(tiny.learned_state())
    once = plain.loss(Batch(images, labels, None, ("nut",) * 2), context)["picture"]
    torch.testing.assert_close(once, F.cross_entropy(cosine, labels))


# ------------------------------------------------------------------ the authors' files
def stored(reference: Reference, folder: Path) -> dict[str, Any]:
    return torch.load(proof.write_checkpoint(reference, folder / "sowa.ckpt"), weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def test_sizes_follow_the_file(reference: Reference, tower: Any, tmp_path: Path) -> None:
    detector = proof.build(reference, tmp_path, tower)
    assert (detector.heads, detector.context, detector.trained) == (8, 12, True)
    scale = detector.adapters[1].logit_scale[3]
    assert float(scale.detach()) == pytest.approx(4.75)  # above the clamp, as the file has it


@pytest.mark.slow
def test_wrong_files_are_refused(reference: Reference, tower: Any, tmp_path: Path) -> None:
    good = stored(reference, tmp_path)

    def refused(state: dict[str, Any], message: str, **arguments: Any) -> None:
        torch.save({"state_dict": state}, tmp_path / "wrong.ckpt")
        with pytest.raises(CheckpointMismatch, match=message):
            zsad.create("sowa", backbone=tower, checkpoint=tmp_path / "wrong.ckpt", **arguments)

    refused({k: t for k, t in good.items() if k != "net.cross_fusion.linear.bias"}, "missing: text_linear.bias")
    refused(good | {"net.cross_fusion.surplus": torch.zeros(1)}, "unexpected: cross_fusion.surplus")
    refused(good | {"net.cross_fusion.linear.bias": torch.zeros(3)}, r"text_linear\.bias is \(3,\) instead of \(64,\)")
    refused(good, r"unexpected: adapters\.2\.", taps=(12, 24))
    refused(good | {"net.prompt_learner.token_prefix_pos": torch.zeros(1, 1, 1, 128)}, "the start token differs")
    refused({"fc.weight": torch.zeros(2, 2)}, "missing: adapters.*unexpected: fc.weight")


@pytest.mark.slow
def test_shapes_of_the_real_files(reference: Reference) -> None:
    """The authors' names and shapes load on a ViT-L/14-336, whose weights are not needed for it."""
    recipe = zsad.registry.method_class("sowa").recipe
    with torch.device("meta"):
        tower = openclip.build(recipe.backbone, "ViT-L-14-336", activation="quick_gelu", image_size=336)
    detector = zsad.create("sowa", backbone=tower.eval().requires_grad_(False))
    shapes = reference.settings["checkpoint_schema"]["top"]["state_dict"]
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    state |= {f"{copy}.ln_final.weight": torch.zeros(768) for copy in COPIES}
    found = detector.foreign_state(state)
    detector.load_learned(found)
    assert set(found) == set(detector.learned_state())
    assert type(detector).implied_arguments(found) == {"context": 12, "heads": 8}


def test_untrained_adapters_do_not_score_outside_tests(tiny: Any) -> None:
    with pytest.raises(NotTrained, match=r"no learned weights yet.*checkpoint="):
        zsad.Inspector(tiny)
    with pytest.raises(UsageError, match="has no visual"):
        zsad.create("sowa", backbone=zsad.load_backbone("compact"))


# ------------------------------------------------------------------ mistakes that the proof has to see
def no_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_adapter, "LARGEST_SCALE", 9.0)


def key_less_query(monkeypatch: pytest.MonkeyPatch) -> None:
    own = window_adapter.WindowAdapter.position_bias
    monkeypatch.setattr(window_adapter.WindowAdapter, "position_bias", lambda self, side: own(self, side).transpose(1, 2))


def value_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    own = window_adapter.WindowAdapter.attend

    def biased(self: Any, x: Any, grid: Any, side: int, frozen: Any) -> Any:
        width = x.shape[-1]
        shift = torch.linalg.lstsq(frozen.in_proj_weight[2 * width :], frozen.in_proj_bias[2 * width :, None]).solution[:, 0]
        return own(self, x + shift, grid, side, frozen)

    monkeypatch.setattr(window_adapter.WindowAdapter, "attend", biased)


def half_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad.methods.sowa.upsample", lambda grid, size, align_corners: maps.upsample(grid, size))


def other_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks.MLP, "forward", lambda self, x: self.c_proj(F.gelu(self.c_fc(x))))


def softmax_before_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    own = maps.upsample
    monkeypatch.setattr(
        "zsad.methods.sowa.upsample", lambda grid, size, align_corners: own(grid.sigmoid(), size, align_corners=True).logit()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "output"),
    [
        (no_clamp, "adapter_out_proj_12"),
        (key_less_query, "adapter_6/relative_bias"),
        (value_bias, "adapter_6/attention_out"),
        (half_pixels, "img0/map_6"),
        (softmax_before_resize, "img0/map_6"),
        (other_activation, "image_features_raw"),
    ],
)
def test_mistakes_are_seen(
    reference: Reference, tower: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Any, output: str
) -> None:
    mistake(monkeypatch)
    detector, check = proof.build(reference, tmp_path, tower), Comparisons(reference)
    with torch.no_grad():
        features = detector.encode(reference.pixels()[: len(reference.settings["image_classes"])])
        proof._adapter(check, detector, features)
        proof._zero_shot(check, detector, features, detector.prepare(), reference)
    assert output in {one.output for one in check.made if not one.passed}


@pytest.mark.slow
def test_turned_masks_are_seen(reference: Reference, tower: Any, tmp_path: Path) -> None:
    detector, step = proof.build(reference, tmp_path, tower), proof.batch(reference)
    with torch.no_grad():
        losses = detector.loss(replace(step, masks=1 - step.masks), detector.prepare())  # type: ignore[operator]
    assert float(sum(losses.values())) != pytest.approx(float(reference["train/loss"]), rel=1e-5)
