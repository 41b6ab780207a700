"""SubspaceAD's laws, references and settings; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zsad
from zsad.alignment.aggregation import picture_scores
from zsad.backbones import dinov2
from zsad.backbones.blocks import TowerShape
from zsad.backbones.dinov2 import DINOv2
from zsad.errors import NeedsSet, UsageError
from zsad.images.rotation import angles_of, rotated
from zsad.inference.inspector import Inspector
from zsad.methods import subspacead
from zsad.references import components
from zsad.references.sum_banks import SECOND, SUMS, joined, unpacked
from zsad.types import Context, References
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import subspacead as proof
from zsad.verification.reference import Reference, reference_folder

SIDE = 56  # pixels; 4 x 4 patches


@pytest.fixture(scope="module")
def tower() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = DINOv2("seeded", TowerShape(32, 20, 2, 64), registers=2, native_size=SIDE)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return made.eval().requires_grad_(False)


def method(tower: Any, **arguments: Any) -> Any:
    return zsad.create("subspacead", backbone=tower, **{"rotations": 0} | arguments)


def photos(count: int, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(count)]


def tensors(tower: Any, pictures: list[Any]) -> torch.Tensor:
    return torch.stack([tower.preprocess(one) for one in pictures])


# ------------------------------------------------------------------ layers, scores
def test_layers_count_from_the_end(tower: Any) -> None:
    def layers(depth: int) -> Any:
        return method(DINOv2("x", TowerShape(32, depth, 1, 32), native_size=SIDE)).layers

    assert layers(24) == (7, 8, 9, 10, 11, 12, 13)
    assert layers(40) == (23, 24, 25, 26, 27, 28, 29)
    assert layers(12) == (6, 7, 8)
    assert method(tower, taps=[3, 5]).layers == (3, 5)


def test_the_highest_per_cent_is_rounded_down() -> None:
    """At 672 px 1 % are 4515.84 pixels, and the authors take 4515."""
    maps = torch.zeros(1, 672, 672)
    maps.view(-1)[:4515] = 1.0
    assert picture_scores(maps, "top1").item() == 1.0
    assert picture_scores(maps, "top5").item() == 1.0
    ramp = torch.arange(101.0).view(1, 1, 101)
    assert picture_scores(ramp, "p99").item() == pytest.approx(99)
    assert (picture_scores(ramp, "max").item(), picture_scores(ramp, "mean").item()) == (100, 50)
    assert picture_scores(ramp, "top5").item() == 98


def test_a_score_does_not_depend_on_the_batch(tower: Any) -> None:
    detector, images = method(tower), tensors(tower, photos(5))
    with torch.inference_mode():
        context = detector.prepare(references=References(images[:2]))
        together = detector(images, context)
        alone = [detector(images[i : i + 1], context) for i in range(5)]
    torch.testing.assert_close(torch.cat([one.anomaly_map for one in alone]), together.anomaly_map, rtol=1e-5, atol=1e-5)


def test_other_encoders(tower: Any) -> None:
    detector = zsad.create("subspacead", backbone="compact", rotations=0)
    images = torch.randn(1, 3, 256, 256)
    with pytest.raises(UsageError, match=r"Layers of 80, 112, 192 channels have no mean. Give merge='concat'"):
        detector.encode(images)
    detector = zsad.create("subspacead", backbone="compact", rotations=0, merge="concat")
    with torch.inference_mode():
        (tap,) = detector.encode(images).taps.values()
    assert (tap.grid, tap.patches.shape) == ((16, 16), (1, 256, 384))


# ------------------------------------------------------------------ references
def test_fifty_steps_of_adding_and_removing_equal_a_fresh_fit(tower: Any) -> None:
    pictures, rng = photos(8), np.random.default_rng(1)
    inspector = Inspector(method(tower, rotations=(90.0,)), "nut", references=pictures[:2])
    own = {Inspector(inspector.detector, "nut", references=[one]): one for one in pictures}
    rows = {next(iter(one.references.digests)): one.context.banks[SUMS].rows for one in own}
    digest = {id(picture): next(iter(one.references.digests)) for one, picture in own.items()}
    there = {0: "0000000", 1: "0000001"}
    for _ in range(50):
        number = int(rng.integers(len(pictures)))
        if number in there and len(there) > 1:
            inspector.remove_references(there.pop(number))
        elif number not in there:
            (there[number],) = inspector.add_references([pictures[number]])
        fresh = joined(SUMS, [rows[one] for one in sorted(digest[id(pictures[number])] for number in there)])
        assert torch.equal(inspector.context.banks[SUMS].rows, fresh)
    anew = Inspector(inspector.detector, "nut", references=[pictures[number] for number in there])
    test = photos(1, seed=9)
    assert [one.pred_score for one in anew(test)] == [one.pred_score for one in inspector(test)]


def test_one_left_out_is_a_fit_without_it(tower: Any) -> None:
    pictures = photos(3)
    inspector = Inspector(method(tower, components=6), "nut", references=pictures)
    for digest in inspector.references.digests:
        found = inspector.left_out(digest).context.banks[SUMS].rows
        again = inspector.references.banks(without=digest)[SUMS].rows
        torch.testing.assert_close(unpacked(found).products, unpacked(again).products, rtol=1e-12, atol=1e-9)
        assert unpacked(found).count == 2 * 16


def test_saved_references_are_small_and_read_back(tower: Any, tmp_path: Path) -> None:
    inspector = Inspector(method(tower, rotations=3), "nut", references=photos(2))
    inspector.save_references(tmp_path / "refs")
    again = Inspector(method(tower, rotations=3), "nut", references=tmp_path / "refs")
    assert torch.equal(again.context.banks[SUMS].rows, inspector.context.banks[SUMS].rows)
    assert unpacked(again.context.banks[SUMS].rows).count == 2 * 4 * 16  # two pictures, each in four views of 16 patches
    with pytest.raises(UsageError, match="encoded by another detector: arguments.rotations"):
        Inspector(method(tower), "nut", references=tmp_path / "refs")


def test_references_are_turned_before_they_are_resized(tower: Any) -> None:
    (picture,) = photos(1, size=(90, 70))
    detector = method(tower, rotations=(30.0,))
    found = Inspector(detector, "nut", references=[picture]).context.banks[SUMS].rows
    views = [detector.encode(tower.preprocess(one)[None]) for one in (picture, rotated(picture, 30.0))]
    assert torch.equal(found, joined(SUMS, [detector.reference_rows(one)[SUMS][0] for one in views]))
    (square,) = photos(1)  # of the model's size: the same from pictures that are preprocessed already
    with torch.inference_mode():
        context = detector.prepare(references=References(tensors(tower, [square])))
    assert torch.equal(Inspector(detector, "nut", references=[square]).context.banks[SUMS].rows, context.banks[SUMS].rows)


def test_tiles_of_a_reference_are_added(tower: Any) -> None:
    (picture,) = photos(1, size=(SIDE, 2 * SIDE))
    inspector = Inspector(method(tower, rotations=(90.0,)), "nut", references=[picture], tile=SIDE, overlap=0.0)
    assert unpacked(inspector.context.banks[SUMS].rows).count == 2 * 2 * 16  # tiles, views, patches


def test_angles(tower: Any) -> None:
    assert angles_of(2, 42, draws=2)[:2] == angles_of(2, 42)
    assert all(0 <= angle < 345 for angle in angles_of(30, 1))
    detector = method(tower, rotations=2, faithful=True)
    assert detector.reference_angles == angles_of(4, 42)
    banks = Inspector(detector, "nut", references=photos(2)).context.banks
    assert [unpacked(banks[key].rows).count for key in (SUMS, SECOND)] == [96, 96]
    assert not torch.equal(banks[SUMS].rows, banks[SECOND].rows)
    assert method(tower, rotations=(10.0, 20.0), faithful=True).reference_angles == (10.0, 20.0)  # the same for both


# ------------------------------------------------------------------ the batch
def test_without_references_the_batch_is_fitted(tower: Any) -> None:
    detector, images = method(tower), tensors(tower, photos(3))
    context = detector.prepare()
    with torch.inference_mode():
        features = detector.encode(images)
        with pytest.raises(NeedsSet, match="Give the whole set to score_set"):
            detector.score(features, context)
        found = torch.cat([one.anomaly_map for one in detector.score_set([features], context)])
        fitted = detector.prepare(references=References(images))
        torch.testing.assert_close(found, detector.score(features, fitted).anomaly_map, rtol=1e-4, atol=1e-4)
        both = detector.as_batch(fitted)
        assert both.needs_set(fitted)
        assert not detector.needs_set(fitted)
        more = list(both.score_set([features], fitted))  # each picture counts twice: the same components
        torch.testing.assert_close(more[0].anomaly_map, found, rtol=1e-3, atol=1e-3)
    assert list(detector.score_set([], context)) == []


def test_relative_maps_have_the_scale_of_the_normal_patches(tower: Any) -> None:
    images = tensors(tower, photos(3))
    plain, relative = method(tower), method(tower, relative=True)
    with torch.inference_mode():
        context = plain.prepare(references=References(images[:2]))
        variance = unpacked(context.banks[SUMS].rows).subspace(0.99, over_all=True).values.sum().float()
        found = relative(images, context)
        torch.testing.assert_close(found.anomaly_map * variance, plain(images, context).anomaly_map, rtol=1e-4, atol=1e-5)
    assert (plain.map_range, relative.map_range) == ((0.0, 100.0), (0.0, 0.3))


# ------------------------------------------------------------------ masks, refusals
def test_the_mask_hides_the_least_salient_patches(tower: Any) -> None:
    detector, images = method(tower, saliency_block=3), tensors(tower, photos(2))
    with torch.inference_mode():
        features = detector.encode(images)
        sums = unpacked(detector.banks(References(images))[SUMS].rows)
        assert (sums.count, sums.left_out) == (2 * 13, 2 * 3)
        all_counted, own = (sums.subspace(0.9, over_all=over_all) for over_all in (True, False))
        torch.testing.assert_close(all_counted.mean * 32, own.mean * 26)
        assert detector.sums(features)[0].left_out == 3


def test_settings_of_no_use_are_refused(tower: Any) -> None:
    for wrong in ({"components": 0}, {"components": 1.0}, {"components": 0.0}, {"drop": -1}):
        with pytest.raises(UsageError, match="give a whole number of components, 1 or more"):
            method(tower, **wrong).prepare()
    with pytest.raises(UsageError, match=r"taps=\(21,\) must lie in 1\.\.20"):
        method(tower, taps=(21,)).encode(torch.zeros(1, 3, SIDE, SIDE))
    with pytest.raises(UsageError, match="Saliency is attention inside DINOv2, and 'tiny' is none"):
        method(zsad.load_backbone("tiny"), saliency_block=3).encode(torch.zeros(1, 3, 80, 80))
    images = tensors(tower, photos(1))
    context = method(tower).prepare(references=References(images))
    with torch.inference_mode(), pytest.raises(UsageError, match="The references have 32 channels and the pictures 64"):
        method(tower, merge="concat", taps=(3, 4))(images, context)
    with torch.inference_mode(), pytest.raises(UsageError, match="no sums of patches"):
        method(tower)(images, Context(banks={"3": replace(context.banks[SUMS])}))


# ------------------------------------------------------------------ plausible mistakes
@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Path]:
    return Reference(reference_folder(), "subspacead"), tmp_path_factory.mktemp("dino")


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


def taps_behind_the_norm(patch: pytest.MonkeyPatch) -> None:
    plain = DINOv2.encode_image
    patch.setattr(DINOv2, "encode_image", lambda self, *given, **how: plain(self, *given, **how | {"normed": True}))


def root_of_the_squares(patch: pytest.MonkeyPatch) -> None:
    plain = components.residual
    patch.setattr(components, "residual", lambda *given: plain(*given).sqrt())


def corners_aligned(patch: pytest.MonkeyPatch) -> None:
    plain = subspacead.upsample
    patch.setattr(subspacead, "upsample", lambda grid, size: plain(grid, size, align_corners=True))


def one_component_more(patch: pytest.MonkeyPatch) -> None:
    plain = components._holding
    patch.setattr(components, "_holding", lambda *given: plain(*given) + 1)


def positions_on_registers(patch: pytest.MonkeyPatch) -> None:
    plain = DINOv2.embed

    def embed(self: Any, images: torch.Tensor) -> torch.Tensor:
        x = plain(self, images)
        x[:, 1 : 1 + self.registers] += self.positions[0]
        return x

    patch.setattr(DINOv2, "embed", embed)


def gate_and_values_exchanged(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        values, gate = self.c_fc(x).chunk(2, dim=-1)
        out: torch.Tensor = self.c_proj(torch.nn.functional.silu(gate) * values)
        return out

    patch.setattr(dinov2.SwiGLU, "forward", forward)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "arguments", "mode"),
    [
        (nothing, {}, None),
        (nothing, {"taps": tuple(range(8, 15))}, None),
        (nothing, {}, "bicubic"),
        (taps_behind_the_norm, {}, None),
        (root_of_the_squares, {}, None),
        (corners_aligned, {}, None),
        (one_component_more, {}, None),
        (positions_on_registers, {}, None),
        (gate_and_values_exchanged, {}, None),
    ],
)
def test_mistakes_are_seen(
    mistake: Callable[[pytest.MonkeyPatch], None],
    arguments: dict[str, Any],
    mode: str | None,
    stored: tuple[Reference, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, folder = stored
    detector, check = proof.build(reference, folder, **arguments), Comparisons(reference)
    detector.backbone.position_embedding = mode or detector.backbone.position_embedding
    components.check_size(detector.components)
    mistake(monkeypatch)
    shown, images = (proof.inputs(detector, reference[key]) for key in ("reference_input_uint8", "input_uint8"))
    with torch.inference_mode():
        context = detector.prepare(references=References(shown[:1]))
        proof.variant(check, detector, detector.encode(images), context, "k1/")
    assert all(one.passed for one in check.made) == (mistake is nothing and not arguments and mode is None)
