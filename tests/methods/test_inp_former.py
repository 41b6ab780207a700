"""INP-Former's prototypes, crop, training and checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment import prototypes as pieces
from zsad.alignment.maps import cut_gaussian, in_frame, smooth
from zsad.common.stable_adamw import StableAdamW
from zsad.errors import NotTrained, UnsupportedBackbone, UsageError
from zsad.images.preprocessing import Squash, squashed_middle
from zsad.references.few_shot_views import few_shot_views
from zsad.types import Batch, References
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import inp_former as proof
from zsad.verification.reference import Reference


# ------------------------------------------------------------------ pieces
def test_the_nearest_prototype_by_hand() -> None:
    patches, prototypes = torch.randn(2, 7, 8), torch.randn(2, 3, 8)
    by_hand = (1 - F.cosine_similarity(patches[:, :, None], prototypes[:, None], dim=3)).amin(2)
    torch.testing.assert_close(pieces.nearest_prototype(patches, prototypes), by_hand)


def test_mining_changes_gradients_alone() -> None:
    x, distance = torch.randn(2, 5, 3, requires_grad=True), torch.rand(2, 5) + 0.1
    rebuilt = x * 1
    factor = pieces.mined_gradient(rebuilt, distance)
    rebuilt.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, factor[..., None].expand_as(x))
    torch.testing.assert_close(factor, (distance / distance.mean()) ** 3)
    pieces.mined_gradient(torch.randn(2, 5, 3), distance)  # nothing to enlarge is no error


def test_rebuilt_patches_are_made_of_prototypes_alone() -> None:
    block, queries = pieces.CrossBlock(128, 2, rebuilds=True), torch.randn(1, 4, 128)
    for parameter in block.attn.kv.parameters():
        torch.nn.init.zeros_(parameter)  # no values: nothing of the queries is left
    same = block(queries, torch.randn(1, 6, 128))
    torch.testing.assert_close(same, same[:, :1].expand_as(same), rtol=0, atol=1e-6)


def test_zeros_darken_corners() -> None:
    ones = torch.ones(1, 32, 32)
    assert float(cut_gaussian(ones, 5, 4.0, zeros=True)[0, 0, 0]) == pytest.approx(0.3679, abs=1e-3)
    torch.testing.assert_close(cut_gaussian(ones, 5, 4.0, zeros=False), ones)
    noise = torch.rand(1, 64, 64)  # a kernel with room for three deviations is the usual Gaussian
    inner = (slice(None), slice(20, -20), slice(20, -20))
    torch.testing.assert_close(cut_gaussian(noise, 25, 2.0, zeros=True)[inner], smooth(noise, 2.0, 6.0)[inner])


def test_the_middle_lies_in_the_frame() -> None:
    found = in_frame(torch.ones(1, 10, 10), 64, 7 / 8)
    assert found.shape == (1, 64, 64)
    expected = torch.zeros(1, 64, 64)
    expected[:, 4:60, 4:60] = 1
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(in_frame(torch.ones(1, 10, 10), 64, 1.0), torch.ones(1, 64, 64))
    rgb = np.zeros((448, 448, 3), dtype=np.uint8)
    rgb[28:420, 28:420] = 255  # what a crop of 392 sees
    assert Squash(392).pixels(squashed_middle(rgb, Squash(392), 392 / 448)[None]).min() == 255
    assert Squash(392).pixels(squashed_middle(rgb, Squash(392), 1.0)[None]).min() == 0


def test_views_of_a_reference() -> None:
    picture = torch.randn(2, 3, 16, 16)
    found = few_shot_views(picture).unflatten(0, (22, 2))
    assert torch.equal(found[0], picture)
    assert torch.equal(found[17], picture.flip(3))
    assert torch.equal(found[18, :, 0], found[18, :, 2])
    assert torch.equal(found[20], picture.flip(2, 3))


def test_the_optimizer_is_adamw_until_a_gradient_jumps() -> None:
    own, plain = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    options = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-10, "weight_decay": 1e-2, "amsgrad": True}
    pair = [(own, StableAdamW([own], **options)), (plain, torch.optim.AdamW([plain], **options))]
    for size in (1.0, 0.9):
        for parameter, optimizer in pair:
            parameter.grad = torch.full((4,), size)
            optimizer.step()
    torch.testing.assert_close(own, plain)
    before = own.detach().clone()
    for parameter, optimizer in pair:
        parameter.grad = torch.full((4,), 100.0)
        optimizer.step()
    assert (own - before).abs().max() < 0.6 * (plain - before).abs().max()
    assert pair[0][1].step(lambda: 3.0) == 3.0


# ------------------------------------------------------------------ laws
def test_layers_and_what_is_not_run(detector: Any, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert detector.layers == (3, 4, 5, 6, 7, 8, 9, 10)
    features = detector.encode(images[:1])
    assert list(features.taps) == [6, 10]

    def refuse(*_: Any) -> None:
        raise AssertionError("a block behind the last tap was run")

    monkeypatch.setattr(detector.backbone.blocks[10], "forward", refuse)
    torch.testing.assert_close(detector.encode(images[:1]).taps[10].patches, features.taps[10].patches)


def test_wrong_arguments(detector: Any) -> None:
    with pytest.raises(UsageError, match="so an even number of layers"):
        zsad.create("inp_former", backbone=detector.backbone, taps=(3, 4, 5))
    with pytest.raises(UsageError, match=r"must lie in 1\.\.12"):
        zsad.create("inp_former", backbone=detector.backbone, taps=(3, 13))
    with pytest.raises(UnsupportedBackbone, match="The width of 'compact' is not known"):
        zsad.create("inp_former", backbone=zsad.load_backbone("compact"), taps=(1, 2))


@pytest.mark.parametrize("rebuild", [False, True])
def test_scores_do_not_depend_on_the_batch(detector: Any, images: torch.Tensor, rebuild: bool) -> None:
    detector.rebuild = rebuild
    with torch.inference_mode():
        context = detector.prepare()
        together, alone = detector(images, context), detector(images[1:2], context)
    detector.rebuild = False
    torch.testing.assert_close(alone.pred_score, together.pred_score[1:2], rtol=0, atol=1e-6)
    torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[1:2], rtol=0, atol=1e-6)


def test_the_map_is_zero_where_nothing_was_seen(detector: Any, images: torch.Tensor) -> None:
    with torch.inference_mode():
        found = detector(images[:1], detector.prepare()).anomaly_map[0]
        detector.crop = False
        whole = detector(images[:1], detector.prepare()).anomaly_map[0]
    detector.crop = True
    assert found.shape == whole.shape == images.shape[-2:]
    assert found[:7].abs().sum() == found[:, -7:].abs().sum() == 0
    assert found[7:-7, 7:-7].min() > 0
    assert whole.min() > 0


def test_references_count_beside_the_picture_s_own_prototypes(detector: Any, images: torch.Tensor) -> None:
    with torch.inference_mode():
        plain = detector(images[:1], detector.prepare())
        known = detector(images[:1], detector.prepare("nut", References(images[:2])))
    torch.testing.assert_close(known.pred_score, plain.pred_score / 2, rtol=0, atol=1e-6)


def test_untrained_weights_do_not_score(detector: Any) -> None:
    with pytest.raises(NotTrained, match="inp_former has no learned weights yet"):
        zsad.Inspector(zsad.create("inp_former", backbone=detector.backbone))


# ------------------------------------------------------------------ training
def test_the_loss_is_of_normal_pictures(detector: Any, images: torch.Tensor) -> None:
    context, normal = detector.prepare(), Batch(images[:2], torch.zeros(2), None, ("x",) * 2)
    mixed = Batch(images[:3], torch.tensor([0, 0, 1]), None, ("x",) * 3)
    own, other = detector.loss(normal, context), detector.loss(mixed, context)
    assert own.keys() == {"reconstruction", "coherence"}
    for key, part in own.items():
        torch.testing.assert_close(part, other[key])
    cached = detector.loss(replace(normal, images=detector.encode(images[:2])), context)
    torch.testing.assert_close(cached["reconstruction"], own["reconstruction"])
    none = detector.loss(replace(normal, labels=torch.ones(2)), context)
    none["reconstruction"].backward()
    assert none["reconstruction"] == 0
    assert detector.prototype_token.grad.abs().sum() == 0
    detector.zero_grad()


# ------------------------------------------------------------------ the authors' files, and plausible mistakes
@pytest.mark.slow
def test_wrong_files_are_refused(refuses: Any, stored: tuple[Reference, Any, Path]) -> None:
    reference, tower, folder = stored
    path = proof.write_model(reference, folder / "wrong.pth")
    good = torch.load(path, weights_only=True)

    refused = refuses(tower, good)
    refused({"prototype_token": None}, "missing: prototype_token")
    refused({"surplus": torch.zeros(1)}, "unexpected: surplus")
    refused({"decoder.0.attn.learn_scale": torch.zeros(3, 1, 1)}, r"decoder\.0\.attn\.learn_scale is \(3, 1, 1\)")
    refused({}, r"prototype_token is \(6, 128\) instead of \(5, 128\)", prototypes=5)
    torch.save(good | {"prototype_token": torch.zeros(4, 128)}, path)
    assert zsad.create("inp_former", backbone=tower, checkpoint=path).prototypes == 4


def no_mistake(patch: pytest.MonkeyPatch) -> None:
    """The comparison as it is."""


def softmax_in_the_decoder(patch: pytest.MonkeyPatch) -> None:
    def weights(self: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)

    patch.setattr(pieces.CrossAttention, "weights", weights)


def residual_in_the_decoder(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        x = queries + self.attn(self.norm1(queries), self.norm1(tokens))[0]
        return x + self.mlp(self.norm2(x))

    patch.setattr(pieces.CrossBlock, "forward", forward)


def decoder_in_order(patch: pytest.MonkeyPatch) -> None:
    plain = pieces.rebuild_groups
    patch.setattr("zsad.methods.inp_former.rebuild_groups", lambda *given: plain(*given)[::-1])


def one_resize(patch: pytest.MonkeyPatch) -> None:
    plain = zsad.alignment.maps.upsample
    patch.setattr("zsad.methods.inp_former.upsample", lambda grid, size, **_: plain(grid, size))


def farthest_prototype(patch: pytest.MonkeyPatch) -> None:
    def farthest(patches: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        return 1 - (F.normalize(patches, dim=-1) @ F.normalize(found, dim=-1).transpose(1, 2)).amin(2)

    patch.setattr("zsad.methods.inp_former.nearest_prototype", farthest)


def usual_norms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(F, "layer_norm", lambda x, shape, weight, bias, eps: torch.layer_norm(x, shape, weight, bias, max(eps, 1e-5)))


@pytest.mark.parametrize(
    ("mistake", "arguments"),
    [
        (no_mistake, {}),
        (softmax_in_the_decoder, {}),
        (residual_in_the_decoder, {}),
        (decoder_in_order, {}),
        (one_resize, {}),
        (farthest_prototype, {}),
        (usual_norms, {}),
        (no_mistake, {"taps": (4, 5, 6, 7, 8, 9, 10, 11)}),
    ],
)
def test_mistakes_are_seen(
    mistake: Callable[[pytest.MonkeyPatch], None],
    arguments: dict[str, Any],
    stored: tuple[Reference, Any, Path],
    images: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = proof.build(*stored, **arguments)
    mistake(monkeypatch)
    check = Comparisons(stored[0])
    with torch.inference_mode():
        proof.outputs(check, detector, images)
    assert all(one.passed for one in check.made) == (mistake is no_mistake and not arguments)


@pytest.mark.slow
def test_a_step_without_mining_is_seen(stored: tuple[Reference, Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "mined_gradient", lambda *_: None)
    check = Comparisons(stored[0])
    proof.training(check, proof.build(*stored), proof.batch(stored[0]))
    seen = {one.kind for one in check.made if not one.passed}
    assert "gradients" in seen
    first = [one for one in check.made if one.output == "train/step 1 loss"]
    assert first[0].passed  # the loss itself does not show it
