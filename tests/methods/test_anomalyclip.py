"""AnomalyCLIP's laws and its checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import CheckpointMismatch, NotTrained, UsageError
from zsad.verification.proofs import anomalyclip as proof
from zsad.verification.reference import Reference, reference_folder
from zsad.verification.towers import write_tower


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny CLIP, and a checkpoint in the authors' layout."""
    folder, reference = tmp_path_factory.mktemp("anomalyclip"), Reference(reference_folder(), "anomalyclip")
    prompts = proof.write_prompts(reference.settings["seed"], folder / "prompts.pth")
    return {"backbone": write_tower(reference, folder), "prompts": prompts}


def build(files: dict[str, Path], **arguments: Any) -> Any:
    backbone = zsad.load_backbone(
        f"file:{files['backbone']}", activation="quick_gelu", position_embedding="bilinear", image_size=112
    )
    return zsad.create("anomalyclip", backbone=backbone, checkpoint=files["prompts"], **arguments)


# ------------------------------------------------------------------ laws and refusals
@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.create(
        "anomalyclip", backbone=zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bilinear")
    )


def test_the_last_tap_alone_is_published(tiny: Any) -> None:
    assert tiny.layers() == ((12,), 4)  # 12 blocks: 9 of them, as 18 of 24, behind the third


def test_depths_scale(files: dict[str, Path]) -> None:
    assert build(files).layers() == ((24,), 6)


def test_the_name_changes_nothing(tiny: Any) -> None:
    assert torch.equal(tiny.prepare("nut").text, tiny.prepare("banana").text)


def test_four_equal_taps_are_four_times_one(tiny: Any) -> None:
    size = tiny.backbone.image_size
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    context = tiny.prepare()
    with torch.inference_mode():
        one = tiny(images, context)
        features = tiny.encode(images)
        tap = features.streams["local"][12]
        many = zsad.ImageFeatures(features.image, streams={"local": dict.fromkeys((1, 2, 3, 4), tap)})
        torch.testing.assert_close(tiny.score(many, context).anomaly_map, 4 * one.anomaly_map)


def test_smoothing_is_scipys() -> None:
    from scipy.ndimage import gaussian_filter

    from zsad.alignment.maps import smooth

    maps = torch.rand(2, 23, 41, generator=torch.Generator().manual_seed(0))
    for sigma in (0.5, 4.0, 8.0):  # a radius of 32 is wider than the map
        expected = np.stack([gaussian_filter(one.numpy(), sigma=sigma) for one in maps])
        torch.testing.assert_close(smooth(maps, sigma), torch.from_numpy(expected), rtol=0, atol=1e-6)
    assert smooth(maps, 0.0) is maps


def test_untrained_prompts_do_not_score_outside_tests(tiny: Any) -> None:
    with pytest.raises(NotTrained, match=r"no learned weights yet.*checkpoint="):
        zsad.Inspector(tiny)


@pytest.mark.slow
def test_crane_layout_needs_a_keyword(files: dict[str, Path], tmp_path: Path) -> None:
    crane = proof.write_prompts(101, tmp_path / "crane.pth", projections=False)
    with pytest.raises(CheckpointMismatch, match=r"Crane's layout.*crane_layout=True"):
        build(files | {"prompts": crane})
    accepted = build(files | {"prompts": crane}, crane_layout=True)
    assert torch.equal(accepted.prompts.normal, build(files).prompts.normal)


def test_real_crane_files(wide_text: Any, root: Path) -> None:
    path = root.parent / "shared" / "checkpoints" / "crane_visa_epoch5.pth"
    if not path.is_file():
        pytest.skip("the published prompt files are not beside this checkout")
    from zsad.weights.checkpoints import read_state_dict

    state = read_state_dict(path)["prompt_learner"]
    with pytest.raises(CheckpointMismatch, match="start token differs"):
        zsad.create("anomalyclip", backbone=wide_text, checkpoint=path, crane_layout=True)
    wide_text.token_embedding.weight[-2] = state["token_prefix_pos"].flatten()
    loaded = zsad.create("anomalyclip", backbone=wide_text, checkpoint=path, crane_layout=True)
    assert float(loaded.prompts.normal.detach().norm()) == pytest.approx(
        3.2695, abs=1e-4
    )  # methods' notes on the published file
    assert float(loaded.prompts.deep[7].detach().norm()) == pytest.approx(2.0494, abs=1e-4)


@pytest.mark.slow
def test_wrong_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    wide = proof.write_prompts(1, tmp_path / "wide.pth", width=64)
    with pytest.raises(CheckpointMismatch, match=r"prompts\.anomalous is \(12, 64\) instead of \(12, 128\)"):
        build(files | {"prompts": wide})
    with pytest.raises(CheckpointMismatch, match=r"prompts\.anomalous is \(12, 128\) instead of \(9, 128\)"):
        build(files, context=9)
    state = torch.load(files["prompts"])
    del state["prompt_learner"]["ctx_neg"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(CheckpointMismatch, match=r"missing: prompts\.anomalous"):
        build(files | {"prompts": tmp_path / "short.pth"})
    (tmp_path / "cut.pth").write_bytes(files["prompts"].read_bytes()[:5000])
    with pytest.raises(CheckpointMismatch, match="no file of weights that can be read"):
        build(files | {"prompts": tmp_path / "cut.pth"})


def test_a_size_that_the_patches_do_not_divide_becomes_the_nearest() -> None:
    assert zsad.create("anomalyclip", backbone="tiny").backbone.image_size == 512  # 518 with patches of 16


def test_taps_outside_are_refused(tiny: Any) -> None:
    detector = zsad.create("anomalyclip", backbone=tiny.backbone, taps=(13,))
    with pytest.raises(UsageError, match=r"no layer \[13\]"):
        detector.encode(torch.zeros(1, 3, 80, 80))


def test_features_are_normalised_in_the_cosine(tiny: Any) -> None:
    size = tiny.backbone.image_size
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    context, features = tiny.prepare(), tiny.encode(images)
    by_hand = (F.normalize(features.image, dim=-1) @ context.text[0].T / 0.07).softmax(-1)[:, 1]
    torch.testing.assert_close(tiny.score(features, context).pred_score, by_hand)
