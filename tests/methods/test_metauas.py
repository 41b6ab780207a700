"""MetaUAS's alignment, laws and checkpoints; a part of its parity runs here, all of it in tests/verification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zsad
from zsad.backbones.compact import SameConv
from zsad.errors import NeedsSet, NotTrained, SizeMismatch, UsageError
from zsad.methods.metauas.network import Alignment
from zsad.types import Context, References
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import metauas as proof
from zsad.verification.reference import Reference, reference_folder

SIDE = 64


@pytest.fixture(scope="module")
def small() -> Any:
    torch.manual_seed(0)
    return zsad.create("metauas", backbone=zsad.load_backbone("pixels", image_size=SIDE))


def pictures(count: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def context(small: Any) -> Context:
    with torch.no_grad():
        found: Context = small.prepare("nut", References(pictures(1, seed=5)))
    return found


# ------------------------------------------------------------------ pieces
def test_the_picture_is_resized_with_its_corners_kept() -> None:
    backbone = zsad.load_backbone("pixels", image_size=SIDE)
    rgb = np.random.default_rng(0).integers(0, 255, (150, 110, 3), dtype=np.uint8)
    found, settings = backbone.preprocess(rgb), backbone.preprocess
    mean, std = (torch.tensor(one)[:, None, None] for one in (settings.mean, settings.std))
    corners = torch.from_numpy(rgb)[[0, 0, -1, -1], [0, -1, 0, -1]].T / 255
    torch.testing.assert_close((found * std + mean)[:, [0, 0, -1, -1], [0, -1, 0, -1]], corners, rtol=0, atol=1e-6)
    assert not hasattr(backbone, "encode_text")


def test_pixels_as_a_backbone() -> None:
    backbone = zsad.load_backbone("pixels")
    assert (backbone.image_size, backbone.depth) == (256, 1)
    features = zsad.load_backbone("pixels", image_size=SIDE).encode_image(pictures(2), (1,))
    assert features.image.shape == (2, 3)
    assert torch.equal(features.taps[1].patches[1].T.reshape(3, SIDE, SIDE), pictures(2)[1])
    with pytest.raises(SizeMismatch):
        zsad.load_backbone("pixels", image_size=120)
    with pytest.raises(UsageError, match="'pixels' has no weights, so it takes neither activation="):
        zsad.load_backbone("pixels", activation="gelu")


def test_alignment_by_hand() -> None:
    layer, query, prompt = Alignment(8), torch.randn(2, 5, 8), torch.randn(7, 8)
    reduced = [layer.reduce(x.T[None, :, :, None])[0, :, :, 0].T for x in (query[1], prompt)]
    expected = (reduced[0] @ reduced[1].T).softmax(dim=-1) @ prompt
    torch.testing.assert_close(layer(query, prompt)[1], expected)


# ------------------------------------------------------------------ laws
@pytest.mark.slow
def test_scores_do_not_depend_on_the_batch(small: Any, context: Context) -> None:
    images = pictures(3)
    with torch.inference_mode():
        together = small(images, context)
        for index in range(3):
            alone = small(images[index : index + 1], context)
            torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[index : index + 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(together.pred_score, together.anomaly_map.amax((1, 2)))
    assert together.anomaly_map.shape == (3, SIDE, SIDE)


def test_the_name_does_not_matter(small: Any, context: Context) -> None:
    with torch.no_grad():
        again = small.prepare("banana", References(pictures(1, seed=5)))
    assert again.text is None
    assert all(torch.equal(again.banks[key].rows, bank.rows) for key, bank in context.banks.items())
    assert again.banks.keys() == {"3", "4", "5"}


def test_exactly_one_prompt(small: Any) -> None:
    with torch.no_grad():
        with pytest.raises(UsageError, match=r"metauas compares pictures with exactly one normal picture; got 2\. Give one"):
            small.prepare("nut", References(pictures(2)))
        features = small.encode(pictures(1))
        with pytest.raises(UsageError, match="metauas compares pictures with normal references and needs 1 or more; got 0"):
            small.score(features, small.prepare("nut"))


def test_faithful_scales_within_the_set(small: Any, context: Context) -> None:
    small.faithful = True
    try:
        with torch.inference_mode():
            features = [small.encode(one[None]) for one in pictures(3)]
            found = list(small.score_set(features, context))
            assert small.needs_set(context)
            assert small.scales_within_set(context) == "leave faithful=True out"
            with pytest.raises(NeedsSet, match="metauas with faithful=True scales its image score"):
                small.score(features[0], context)
    finally:
        small.faithful = False
    maps = torch.cat([one.anomaly_map for one in found])
    assert maps.aminmax().min == 0
    assert max(float(one.pred_score) for one in found) == 1


def test_untrained_weights_do_not_score(small: Any) -> None:
    with pytest.raises(NotTrained, match="metauas has no learned weights yet"):
        zsad.Inspector(small, references=np.zeros((SIDE, SIDE, 3), np.uint8))


# ------------------------------------------------------------------ the authors' files, and plausible mistakes
@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Path]:
    reference, folder = Reference(reference_folder(), "metauas"), tmp_path_factory.mktemp("metauas")
    proof.write_checkpoint(reference, folder / "metauas.ckpt")
    return reference, folder


@pytest.mark.slow
def test_wrong_files_are_refused(refuses: Any, stored: tuple[Reference, Path]) -> None:
    _, folder = stored
    good = torch.load(folder / "metauas.ckpt", weights_only=True)
    backbone = zsad.load_backbone("pixels", image_size=SIDE)

    refused = refuses(backbone, good)
    refused({"mask_head.bias": None}, r"missing: mask_head\.bias")
    refused({"decoder.surplus": torch.zeros(1)}, r"unexpected: decoder\.surplus")
    first = "decoder.blocks.0.attention1.attention.sSE.0.bias"
    refused({first: torch.zeros(2)}, r"decoder\.blocks\.0\.before\.place\.bias is \(2,\) instead of \(1,\)")


def no_mistake(patch: pytest.MonkeyPatch) -> None:
    """The comparison as it is."""


def corners_not_aligned(patch: pytest.MonkeyPatch) -> None:
    plain = F.interpolate

    def resized(x: torch.Tensor, **options: Any) -> torch.Tensor:
        return plain(x, **(options | ({"align_corners": False} if "align_corners" in options else {})))

    patch.setattr("zsad.images.preprocessing.F.interpolate", resized)


def symmetric_padding(patch: pytest.MonkeyPatch) -> None:
    def forward(self: SameConv, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.kernel_size[0] // 2, groups=self.groups)

    patch.setattr(SameConv, "forward", forward)


def scaled_products(patch: pytest.MonkeyPatch) -> None:
    plain = Alignment.logits
    patch.setattr(Alignment, "logits", lambda self, q, p: plain(self, q, p) / (q.shape[-1] // 2) ** 0.5)


def same_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Alignment, "forward", lambda self, q, p: p.expand_as(q))


def small_eps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        nn.BatchNorm2d,
        "forward",
        lambda self, x: F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5),
    )


MISTAKES = [no_mistake, corners_not_aligned, symmetric_padding, scaled_products, same_place, small_eps]


@pytest.fixture(scope="module")
def authors(stored: tuple[Reference, Path]) -> Any:
    """The method on the authors' weights."""
    return proof.build(*stored)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(
    mistake: Callable[[pytest.MonkeyPatch], None],
    stored: tuple[Reference, Path],
    authors: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first picture and its prompt: every level, alignment, decoder, and the mask."""
    reference, detector = stored[0], authors
    mistake(monkeypatch)
    check = Comparisons(reference)
    with torch.inference_mode():
        images, _ = proof.pictures(reference, detector)
        prompt = images[reference.settings["prompts"]["no prefix"]["class 0"]][None]
        context = detector.prepare("x", References(prompt))
        proof.inside(check, detector, detector.encode(images[:1]), detector.encode(prompt), context)
        found = detector(images[:1], context)
    check("maps", "mask", found.anomaly_map, part=slice(0, 1), tolerance=proof.MASKS)
    assert all(one.passed for one in check.made) == (mistake is no_mistake)
