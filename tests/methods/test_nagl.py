"""NAGL's references, masks, training and checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import zsad
from zsad.alignment import residual_proxies as pieces
from zsad.errors import NotTrained, UsageError
from zsad.references import residuals
from zsad.types import Context, References
from zsad.verification import nagl_training
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import nagl as proof
from zsad.verification.reference import Reference, reference_folder
from zsad.verification.tiny_pictures import described_pictures


@pytest.fixture(scope="module")
def masks(stored: tuple[Reference, Any, Path]) -> torch.Tensor:
    return proof.masks_of(stored[0])


# ------------------------------------------------------------------ pieces
def test_beyond_normal_by_hand() -> None:
    patches, rows = torch.randn(2, 5, 8), torch.randn(1, 11, 8) * torch.rand(11, 1) * 3
    product = patches @ rows[0].T
    for kept in (1, 4, 100):
        likeness, found = residuals.beyond_normal(patches, rows, kept)
        torch.testing.assert_close(found, patches - rows[0][product.argmax(2)])
        torch.testing.assert_close(likeness, (1 + F.cosine_similarity(patches[:, :, None], rows[:, None], dim=3).amax(2)) / 2)


def test_windows_begin_one_pixel_early() -> None:
    mask = torch.zeros(3, 8, 8)
    mask[0, 3, 0] = 1  # the first row of the second patch by windows, the last of the first by patches
    mask[1, 7, 7] = 1  # is never seen
    mask[2] = 1
    found = residuals.marked_patches(mask, (2, 2), 4)
    assert found[0].tolist() == [[False, False], [True, False]]
    assert not found[1].any()
    assert found[2].all()
    assert torch.equal(residuals.marked_patches(mask.repeat_interleave(3, 1), (2, 2), 4), found)  # of another size


def test_position_codes() -> None:
    none, some = torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    some[0, 1, 1] = True
    plain, skipping = pieces.sine_code(none, 16), pieces.sine_code(some, 16)
    assert plain.shape == (1, 16, 16)
    assert not torch.equal(plain, skipping)
    torch.testing.assert_close(skipping[0, 5, :8], skipping[0, 1, :8])  # a marked patch has the row number before it
    both = torch.arange(2 * 3.0).view(2, 3, 1)
    assert pieces.interleaved(both).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(pieces.interleaved(both[:1]), both[:1])


def test_heads_first_hides_by_another_pictures_mask() -> None:
    torch.manual_seed(0)
    attention, proxies, tokens = pieces.ProxyAttention(16, 4), torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[0, :3] = True
    right = attention.weighed(proxies, tokens, tokens, hidden)[1]
    wrong = attention.weighed(proxies, tokens, tokens, hidden, heads_first=True)[1]
    assert right[0, :, :3].abs().max() == 0
    assert wrong[0, :, :3].min() > 0
    one = [attention(proxies[:1], tokens[:1], tokens[:1], hidden[:1], heads_first=first) for first in (False, True)]
    torch.testing.assert_close(*one)


def test_the_next_anomalous_picture() -> None:
    found = residuals.next_anomalous(torch.tensor([0, 1, 0, 1]))
    assert found is not None
    assert found.tolist() == [1, 3, 3, 1]
    assert residuals.next_anomalous(torch.zeros(3)) is None
    alone = residuals.next_anomalous(torch.tensor([0, 1]))
    assert alone is not None
    assert alone.tolist() == [1, 1]


# ------------------------------------------------------------------ laws
def test_references_are_asked_for(detector: Any, images: torch.Tensor, masks: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="nagl compares pictures with normal references and needs 1 or more; got 0"):
        detector(images[:1], detector.prepare())
    with pytest.raises(UsageError, match="needs 1 or more; got 0"):
        detector(images[:1], Context(banks=detector.banks(References(None, images[:1], masks[:1]))))


def test_wrong_masks_are_refused(detector: Any, images: torch.Tensor, masks: torch.Tensor) -> None:
    for wrong in (masks[:2], torch.zeros_like(masks[:1])):
        with pytest.raises(UsageError, match="each needs one that marks a defect"):
            detector.banks(References(images[4:5], images[:1], wrong))


def test_a_mask_that_no_window_sees_counts_whole(detector: Any, images: torch.Tensor) -> None:
    edge = torch.zeros(1, *images.shape[-2:])
    edge[0, -1, -1] = 1
    bank = detector.banks(References(images[4:5], images[:1], edge))[f"{detector.layer} anomalous"]
    assert len(bank.rows) == 64


@pytest.mark.parametrize("shown", [False, True])
def test_scores_do_not_depend_on_the_batch(detector: Any, images: torch.Tensor, masks: torch.Tensor, shown: bool) -> None:
    given = References(images[4:6], images[:2], masks[:2]) if shown else References(images[4:6])
    with torch.inference_mode():
        context = detector.prepare("x", given)
        together, alone = detector(images[:4], context), detector(images[1:2], context)
    torch.testing.assert_close(alone.pred_score, together.pred_score[1:2], rtol=0, atol=1e-6)
    torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[1:2], rtol=0, atol=1e-6)


def test_order_of_anomalous_references(detector: Any, images: torch.Tensor, masks: torch.Tensor) -> None:
    def both(order: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            found = detector(images[2:3], detector.prepare("x", References(images[4:5], images[order], masks[order])))
        score: torch.Tensor = found.anomaly_map
        return score

    assert (both([0, 1]) - both([1, 0])).abs().max() > 1e-5
    detector.aliased_positions = False
    torch.testing.assert_close(both([0, 1]), both([1, 0]), rtol=0, atol=1e-6)
    detector.aliased_positions = True


def test_an_inspector_takes_pictures_of_defects(detector: Any, stored: tuple[Reference, Any, Path], tmp_path: Path) -> None:
    drawn, marked = described_pictures(stored[0].settings)
    for folder, chosen in (("good", [4, 5]), ("bad", [0])):
        (tmp_path / folder).mkdir()
        for number in chosen:
            Image.fromarray(drawn[number]).save(tmp_path / folder / f"{number}.png")
    plain = zsad.Inspector(detector, "x", references=tmp_path / "good")
    shown = zsad.Inspector(
        detector, "x", references=tmp_path / "good", anomalous=tmp_path / "bad", anomalous_masks=[np.asarray(marked[0])]
    )
    scores = [next(iter(one([drawn[1]]))).pred_score for one in (plain, shown)]
    assert scores[0] != scores[1]
    assert all(0 < score < 1 for score in scores)


def test_untrained_weights_do_not_score(detector: Any) -> None:
    with pytest.raises(NotTrained, match="nagl has no learned weights yet"):
        zsad.Inspector(zsad.create("nagl", backbone=detector.backbone))


# ------------------------------------------------------------------ training
def test_steps_without_anomalous_references(detector: Any, images: torch.Tensor, masks: torch.Tensor) -> None:
    context, step = detector.prepare(), nagl_training.batch(Reference(reference_folder(), "nagl"), images, masks)
    bare = replace(step, anomalous=None, anomalous_masks=None)
    assert detector.loss(bare, context).keys() == {"picture", "focal", "dice"}
    assert detector.loss(replace(bare, masks=None), context).keys() == {"picture"}
    normal = detector.loss(replace(bare, labels=torch.zeros(2)), context)
    assert normal["nothing"] == 0
    detector.zero_grad()
    torch.stack(list(normal.values())).sum().backward()
    assert detector.guide.learnable_proxies.weight.grad.abs().sum() == 0
    with pytest.raises(UsageError, match="Give the batch some"):
        detector.loss(replace(bare, references=None), context)
    cached = {key: detector.encode(getattr(step, key)) for key in ("images", "references", "anomalous")}
    plain, stored = detector.loss(step, context), detector.loss(replace(step, **cached), context)
    for key, part in plain.items():
        torch.testing.assert_close(stored[key], part)
    assert sum(phase.epochs for phase in detector.schedule.phases) == detector.schedule.epochs


# ------------------------------------------------------------------ the authors' files, and plausible mistakes
def test_wrong_files_are_refused(refuses: Any, stored: tuple[Reference, Any, Path]) -> None:
    reference, tower, folder = stored
    path = proof.write_proxies(reference, folder / "wrong.pth")
    good = torch.load(path, weights_only=True)

    refused = refuses(tower, good)
    refused({"module.rm_ca.norm.bias": None}, r"missing: guide\.rm_ca\.norm\.bias")
    refused({"module.surplus": torch.zeros(1)}, "unexpected: surplus")
    refused({"module.afl_sa.norm.weight": torch.zeros(3)}, r"guide\.afl_sa\.norm\.weight is \(3,\)")
    refused({}, r"learnable_proxies\.weight is \(25, 128\) instead of \(7, 128\)", proxies=7)
    torch.save(good | {"module.learnable_proxies.weight": torch.zeros(7, 128)}, path)
    assert zsad.create("nagl", backbone=tower, checkpoint=path).proxies == 7


def no_mistake(patch: pytest.MonkeyPatch) -> None:
    """The comparison as it is."""


def nearest_by_cosine(patch: pytest.MonkeyPatch) -> None:
    plain = residuals.beyond_normal

    def changed(patches: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = (F.normalize(patches, dim=-1) @ F.normalize(rows, dim=-1).transpose(1, 2)).argmax(2)
        nearest = rows.expand(len(patches), -1, -1).gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
        return plain(patches, rows)[0], patches - nearest

    patch.setattr("zsad.methods.nagl.beyond_normal", changed)


def counters_go_on(patch: pytest.MonkeyPatch) -> None:
    plain = pieces.sine_code
    patch.setattr(pieces, "sine_code", lambda skipped, width: plain(torch.zeros_like(skipped), width))


def largest_likeness(patch: pytest.MonkeyPatch) -> None:
    def largest(patches: torch.Tensor, proxies: torch.Tensor) -> torch.Tensor:
        return ((1 + F.normalize(patches, dim=-1) @ F.normalize(proxies, dim=-1).transpose(1, 2)) / 2).amax(2)

    patch.setattr("zsad.methods.nagl.mean_likeness", largest)


def raw_patches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.methods.nagl.final_norm", lambda backbone, x: x)


@pytest.mark.parametrize(
    ("mistake", "prefix", "arguments"),
    [
        (no_mistake, "n1a1/", {}),
        (no_mistake, "n2a2/", {}),
        (nearest_by_cosine, "n2a2/", {}),
        (counters_go_on, "n1a1/", {}),
        (largest_likeness, "n1a1/", {}),
        (raw_patches, "n1a1/", {}),
        (no_mistake, "n2a2/", {"aliased_positions": False}),
    ],
)
def test_mistakes_are_seen(
    mistake: Callable[[pytest.MonkeyPatch], None],
    prefix: str,
    arguments: dict[str, Any],
    stored: tuple[Reference, Any, Path],
    images: torch.Tensor,
    masks: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = proof.build(*stored, **arguments)
    mistake(monkeypatch)
    check = Comparisons(stored[0])
    with torch.inference_mode():
        proof.outputs(check, detector, images, detector.encode(images), masks, prefix)
    assert all(one.passed for one in check.made) == (mistake is no_mistake and not arguments)
