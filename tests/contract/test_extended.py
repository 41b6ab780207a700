"""Abilities of the contract beyond the published six: learned adapters in one short file, a second encoder, a loss at test
time, several views, anomalous references with masks. Each passes all contract checks, and each has an effect."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import registered_apart
from checks import CHECKS, NAME, pictures, predict, snapshot, square
from torch import Tensor

import zsad
from zsad.errors import CheckpointMismatch, UnknownName, UsageError
from zsad.inference.scorer import Scorer
from zsad.inference.settings import describe_encoder
from zsad.types import Bank, Batch, Context, ImageFeatures, References
from zsad.weights.checkpoints import read_header, write_learned

METHODS = registered_apart("adapter_method", "extended_methods")
SHIPPED = set(zsad.list_methods())  # once these files are imported
SIDE, GRID = 80, (5, 5)  # of the tiny backbone


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in METHODS.items():
        monkeypatch.setitem(zsad.registry._methods, name, cls)


@cache
def build(name: str) -> Any:
    torch.manual_seed(0)  # of weights that are not learned yet
    return zsad.create(name, backbone=zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bilinear"))


def test_these_are_the_methods() -> None:
    assert set(METHODS) == {"visual_adapter", "second_encoder", "adapts_at_test", "several_views", "defect_shown"}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str, check: str) -> None:
    CHECKS[check](build(name))


def test_they_are_registered_here_alone() -> None:
    assert not set(METHODS) & SHIPPED
    assert set(METHODS) <= set(zsad.list_methods())  # while a test of this file runs


# ------------------------------------------------------------------ learned adapters
def test_a_method_with_learned_adapters_is_short() -> None:
    assert len((Path(__file__).parent / "adapter_method.py").read_text().splitlines()) <= 120


def authors_file(path: Path, width: int = 8, layers: int = 4) -> dict[str, Tensor]:
    """A checkpoint of the made-up authors: their names, inside their entry."""
    generator = torch.Generator().manual_seed(1)
    names = ["global_adapter", *(f"local_adapter.{index}" for index in range(layers))]
    state = {}
    for name in names:
        state[f"{name}.fc.0.weight"] = torch.randn(width, 32, generator=generator)
        state[f"{name}.fc.2.weight"] = torch.randn(32, width, generator=generator)
    torch.save({"visual_learner": state, "epoch": 15}, path)
    return state


def test_the_authors_names_and_sizes_are_read(tmp_path: Path) -> None:
    theirs = authors_file(tmp_path / "a.pth")
    found = zsad.create("visual_adapter", backbone="tiny", checkpoint=tmp_path / "a.pth")
    assert (found.width, found.trained) == (8, True)
    assert torch.equal(found.picture.down.weight, theirs["global_adapter.fc.0.weight"])
    assert torch.equal(found.patches[3].up.weight, theirs["local_adapter.3.fc.2.weight"])
    again = zsad.create("visual_adapter", backbone="tiny", checkpoint=_saved(found, tmp_path / "b.safetensors"))
    assert again.width == 8
    assert all(torch.equal(again.learned_state()[key], tensor) for key, tensor in found.learned_state().items())
    authors_file(tmp_path / "a.pth", layers=3)
    with pytest.raises(CheckpointMismatch, match=r"missing: patches\.3\.down\.weight, patches\.3\.up\.weight"):
        zsad.create("visual_adapter", backbone="tiny", checkpoint=tmp_path / "a.pth")
    torch.save({"visual_learner": theirs | {"surplus": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatch, match="unexpected: surplus"):
        zsad.create("visual_adapter", backbone="tiny", checkpoint=tmp_path / "a.pth")


def _saved(detector: Any, path: Path) -> Path:
    detector.save(path)
    return path


def test_adapters_learn() -> None:
    """A few steps on two pictures lower the loss."""
    torch.manual_seed(0)
    detector = zsad.create("visual_adapter", backbone=build("visual_adapter").backbone, width=16)
    images, labels = pictures(detector, 2), torch.tensor([0, 1])
    batch = Batch(detector.encode(images), labels, square(images) * labels[:, None, None], (NAME, NAME))
    context, optimizer = detector.prepare(), torch.optim.Adam(detector.parameters(), 3e-3)
    totals = []
    for _ in range(8):
        parts = detector.loss(batch, context)
        totals.append(torch.stack(list(parts.values())).sum())
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    terms = ("focal", "dice", "dice normal")
    assert set(parts) == {"picture", *(f"{term} {layer}" for term in terms for layer in (3, 6, 9, 12))}
    assert totals[-1] < 0.97 * totals[0]


def test_the_skeleton_in_the_guide_is_a_method(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles, registers itself, scores, learns and passes contract checks, so that it cannot go out of date."""
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## A new method, in one file\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    monkeypatch.setattr(zsad.registry, "_methods", dict(zsad.registry._methods))
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "skeleton"})
    assert "name" in zsad.list_methods()
    torch.manual_seed(0)
    detector = zsad.create("name", backbone=build("visual_adapter").backbone)
    for check in ("shapes_and_finite", "gradients_reach_all_and_only_learned", "checkpoint_round_trips", "references_are_used"):
        CHECKS[check](detector)


# ------------------------------------------------------------------ a second encoder
def test_a_second_encoder_by_name_built_and_by_default() -> None:
    backbone, other = zsad.load_backbone("tiny"), zsad.load_backbone("tiny", seed=7)
    default = zsad.create("second_encoder", backbone=backbone)
    assert (default.structure.name, default.structure.image_size) == ("tiny", 96), "loaded as its own recipe asks"
    assert zsad.create("second_encoder", backbone=backbone, structure="compact").structure.name == "compact"
    assert zsad.create("second_encoder", backbone=backbone, structure=other).structure is other
    assert "structure" not in default.arguments()
    with pytest.raises(UsageError, match="structure of second_encoder takes an encoder or its name; got 5"):
        zsad.create("second_encoder", backbone=backbone, structure=5)
    with pytest.raises(UnknownName, match="'tinny'"):
        zsad.create("second_encoder", backbone=backbone, structure="tinny")


def test_a_second_encoder_matters_and_does_not_learn() -> None:
    own, images = build("second_encoder"), pictures(build("second_encoder"))
    other = copy.copy(own)
    other._modules = {**own._modules, "structure": zsad.load_backbone("tiny", seed=7)}
    context = own.prepare(NAME)
    assert (predict(own, images, context).anomaly_map - predict(other, images, context).anomaly_map).abs().max() > 1e-4
    assert {key.split(".")[0] for key in own.learned_state()} == {"projection"}
    own.train()  # as some training loops do
    before = {key: tensor.clone() for key, tensor in own.structure.state_dict().items()}
    own.loss(Batch(images, torch.ones(3), square(images), (NAME,) * 3), context)["focal"].backward()
    assert all(torch.equal(tensor, before[key]) for key, tensor in own.structure.state_dict().items())
    own.eval().zero_grad()


def test_a_second_encoder_is_in_the_header_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = build("second_encoder")
    detector.save(tmp_path / "w.safetensors")
    header = read_header(tmp_path / "w.safetensors")
    facts = {"name": "tiny", "image_size": 96, "activation": "gelu", "position_embedding": "bicubic_antialias"}
    assert header["encoders"] == {"structure": facts | {"weights_sha256": ""}}
    again = zsad.from_pretrained(tmp_path / "w.safetensors")
    assert (again.structure.image_size, again.backbone.activation) == (96, "quick_gelu")
    images = pictures(detector)
    found = predict(again, images, again.prepare(NAME)), predict(detector, images, detector.prepare(NAME))
    assert torch.equal(found[0].anomaly_map, found[1].anomaly_map)
    zsad.create("second_encoder", backbone=detector.backbone, structure="compact", checkpoint=tmp_path / "w.safetensors")
    assert "w.safetensors was learned with image_size=96; this structure has 256" in caplog.text
    header["encoders"]["structure"]["name"] = "file:b.pt"
    write_learned(tmp_path / "w.safetensors", detector.learned_state(), header)
    with pytest.raises(CheckpointMismatch, match=r"'file:b\.pt', a file of another machine\. Pass structure="):
        zsad.from_pretrained(tmp_path / "w.safetensors")


def test_a_second_encoder_is_part_of_the_fingerprint() -> None:
    def described(name: str) -> dict[str, Any]:
        return describe_encoder(Scorer(build(name), Context(), torch.device("cpu"), 8, 1, None))

    assert "encoders" not in described("adapts_at_test"), "fingerprints of methods with one encoder are as before"
    assert described("second_encoder")["encoders"]["structure"]["image_size"] == 96


def test_pictures_are_preprocessed_again_for_another_encoder() -> None:
    one, other = zsad.load_backbone("tiny").preprocess, zsad.load_backbone("compact").preprocess
    rgb = (255 * torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(3))).byte().numpy()
    same_size = type(other)(SIDE, other.mean, other.std)
    torch.testing.assert_close(same_size.again(one(rgb)[None], one)[0], same_size(rgb), rtol=0, atol=1e-5)
    away = (other.again(one(rgb)[None], one)[0] - other(rgb)).abs()  # PIL rounds to bytes
    assert away.mean() < 0.01
    assert away.max() < 0.2


# ------------------------------------------------------------------ a loss at test time
def test_a_loss_at_test_time_falls_and_leaves_no_trace() -> None:
    detector, before = build("adapts_at_test"), snapshot(build("adapts_at_test"))
    with torch.inference_mode():
        context, features = detector.prepare(NAME), detector.encode(pictures(detector))
        text = detector.adapted(features, context)
        assert (detector.entropy(features, text) < detector.entropy(features, context.text)).all()
        first, second = detector.score(features, context), detector.score(features, context)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert text.shape == (3, 2, 32)
    assert snapshot(detector) == before
    assert all(p.grad is None for p in detector.parameters())


def test_a_loss_at_test_time_in_the_inspector(tmp_path: Path) -> None:
    """From pictures, and from features that lie on disk."""
    from PIL import Image

    for index in range(2):
        values = (255 * torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(index))).byte().numpy()
        Image.fromarray(values).save(tmp_path / f"{index}.png")
    inspector = zsad.Inspector(build("adapts_at_test"), "nut", device="cpu")
    found, again = list(inspector(tmp_path)), list(inspector.rescore(inspector.encode(tmp_path)))
    assert [one.error for one in found] == [None, None]
    assert [one.pred_score for one in found] == pytest.approx([one.pred_score for one in again], abs=1e-6)


# ------------------------------------------------------------------ several views
def test_views_change_and_are_averaged() -> None:
    backbone = build("several_views").backbone
    images, views = pictures(build("several_views")), ("plain", "mirrored", "turned")
    apart = [zsad.create("several_views", backbone=backbone, views=(view,)) for view in views]
    context = build("several_views").prepare(NAME)
    singles = [predict(one, images, context) for one in apart]
    assert (singles[0].anomaly_map - singles[1].anomaly_map).abs().max() > 1e-3, "a mirrored picture looks otherwise"
    whole = predict(build("several_views"), images, context)
    mean = torch.stack([one.anomaly_map for one in singles]).mean(dim=0)
    torch.testing.assert_close(whole.anomaly_map, mean, rtol=0, atol=1e-5)


def test_a_view_s_patches_lie_where_the_picture_s_do() -> None:
    """The mirrored view of a mirrored picture is the plain view of the picture, mirrored back."""
    detector, images = build("several_views"), pictures(build("several_views"))
    with torch.inference_mode():
        there, back = detector.encode(images), detector.encode(images.flip(-1))
    plain, mirrored = there.streams["plain"][12], back.streams["mirrored"][12]
    turned = mirrored.patches.unflatten(1, GRID).flip(2).flatten(1, 2)
    torch.testing.assert_close(turned, plain.patches, rtol=0, atol=1e-5)


def test_views_of_references_are_in_the_bank() -> None:
    detector, images = build("several_views"), pictures(build("several_views"))
    with torch.inference_mode():
        bank = detector.prepare(NAME, References(images[:2])).banks["12"]
    assert bank.rows.shape == (2 * 3 * 25, 32)
    assert torch.bincount(bank.source).tolist() == [75, 75]


# ------------------------------------------------------------------ anomalous references with masks
def defect(corner: tuple[int, int]) -> Tensor:
    """One grey picture with a striped square at a patch of the 5 x 5 grid, (1, 3, 80, 80)."""
    image, (row, column) = torch.full((1, 3, SIDE, SIDE), 0.2), corner
    image[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = torch.tensor([-2.0, 2.0]).repeat(8)
    return image


def mask(corner: tuple[int, int]) -> Tensor:
    found, (row, column) = torch.zeros(1, SIDE, SIDE), corner
    found[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 1
    return found


def test_what_looks_like_a_shown_defect_rises_most() -> None:
    detector, good = build("defect_shown"), torch.full((1, 3, SIDE, SIDE), 0.2)
    with torch.inference_mode():
        before = detector.prepare(NAME, References(good))
        after = detector.prepare(NAME, References(good, defect((1, 1)), mask((1, 1))))
    assert {key: (len(bank.rows), bank.sign) for key, bank in after.banks.items()} == {"12": (25, 1), "12 anomalous": (1, -1)}
    images = torch.cat([defect((1, 1)), good])
    rise = predict(detector, images, after).anomaly_map - predict(detector, images, before).anomaly_map
    centres = rise[0, 8::16, 8::16]  # (5, 5)
    assert divmod(int(centres.argmax()), 5) == (1, 1)
    assert centres.max() > rise[1].max(), "the picture without the defect rises less"


def test_banks_of_anomalous_references() -> None:
    detector, images = build("defect_shown"), pictures(build("defect_shown"), 5)
    with torch.inference_mode():
        whole = detector.banks(References(images[:2], images[2:]))
        masks = torch.stack([mask((0, 0))[0], mask((4, 2))[0] + mask((4, 3))[0], torch.zeros(SIDE, SIDE)])
        masks[2, 3, 70] = 1  # one pixel: the patch that it lies in
        some = detector.banks(References(images[:2], images[2:], masks))
        alone = detector.banks(References(anomalous=images[2:], masks=masks))
    assert torch.bincount(whole["12 anomalous"].source).tolist() == [0, 0, 25, 25, 25]
    rows = whole["12 anomalous"].rows
    assert torch.equal(some["12 anomalous"].rows, rows[[0, 25 + 22, 25 + 23, 50 + 4]])
    assert some["12 anomalous"].source.tolist() == [2, 3, 3, 4]
    assert alone.keys() == {"12 anomalous"}
    assert alone["12 anomalous"].source.tolist() == [0, 1, 1, 2]


def test_masks_that_do_not_fit_are_refused() -> None:
    detector, images = build("defect_shown"), pictures(build("defect_shown"), 2)
    for masks in (torch.ones(1, SIDE, SIDE), torch.stack([torch.ones(SIDE, SIDE), torch.zeros(SIDE, SIDE)])):
        with pytest.raises(
            UsageError, match=r"masks were given for 2 anomalous references; each needs one that marks a defect"
        ):
            detector.prepare(NAME, References(anomalous=images, masks=masks))
    with pytest.raises(UsageError, match="References without a picture were given"):
        detector.prepare(NAME, References(anomalous=images[:0]))


def test_banks_of_defects_are_refused_where_pictures_would_be() -> None:
    banks = {"12 anomalous": Bank(torch.ones(1, 32), torch.zeros(1, dtype=torch.int64), -1)}
    with pytest.raises(UsageError, match="several_views takes normal references only; leave the anomalous ones out"):
        build("several_views").prepare(NAME, References(banks=banks))
    assert build("defect_shown").prepare(NAME, References(banks=banks)).banks == banks


# ------------------------------------------------------------------ what methods share
def test_a_context_of_another_method_is_refused() -> None:
    detector = build("adapts_at_test")
    with pytest.raises(UsageError, match=r"no text features. Make it with prepare\(\) of the detector that scores"):
        detector.score(detector.encode(pictures(detector)), Context())


def test_layers_at_other_depths() -> None:
    from zsad.types import Recipe

    recipe = Recipe("x", 518, taps=(6, 12, 18, 24), local_start=6)
    assert recipe.layers(24) == (6, 12, 18, 24)
    assert recipe.layers(12) == (3, 6, 9, 12)
    assert recipe.layers(3) == (1, 1, 2, 3)
    assert recipe.layers(12, [2, 5]) == (2, 5)
    assert [recipe.local_layer(depth) for depth in (24, 12)] == [6, 4]
    assert recipe.local_layer(12, 7) == 7
    assert Recipe("x", 240, taps=(3, 12), depth=12).layers(12) == (3, 12)


def test_features_change_tensor_by_tensor() -> None:
    from zsad.types import Tap, each_tensor

    tap = Tap(torch.ones(2, 4, 3), (2, 2), torch.ones(2, 3))
    features = ImageFeatures(torch.ones(2, 3), {1: tap}, {"view": {2: Tap(torch.ones(2, 1, 3), (1, 1))}})
    twice = each_tensor(features, lambda tensor: 2 * tensor)
    assert twice.taps[1].cls.sum() == 12
    assert twice.streams["view"][2].cls is None
    assert twice.streams["view"][2].patches.unique().item() == 2
    assert len(features[:1]) == 1
    assert features[:1].taps[1].grid == (2, 2)
    assert features.to(torch.float64).taps[1].cls.dtype == torch.float64


def test_a_method_that_needs_references_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build("visual_adapter")
    monkeypatch.setattr(type(detector), "needs_references", 2)
    monkeypatch.setattr(detector, "trained", True)
    picture = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8).numpy()
    inspector = zsad.Inspector(detector, "nut")
    with pytest.raises(UsageError, match=r"compares pictures with normal references and needs 2 or more; got 0. Give some"):
        list(inspector([picture]))
    inspector.add_references([picture, picture + 9])
    assert [one.error for one in inspector([picture])] == [None]
    inspector.remove_references(inspector.references.names[0])
    with pytest.raises(UsageError, match="needs 2 or more; got 1"):
        list(inspector([picture]))
