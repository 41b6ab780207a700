"""AnomalyCLIP against the stored outputs of its authors' code, and its laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import CheckpointMismatch, NotTrained, UsageError
from zsad.types import Batch

# parity/README.md: features 1e-5, maps and scores 2e-5, losses 1e-5 relative, gradient norms 1e-4 relative
FEATURES, SCORES, LOSSES, GRADIENTS = 1e-5, 2e-5, 1e-5, 1e-4
TAPS = (6, 12, 18, 24)


@pytest.fixture(scope="module")
def reference(parity: Path) -> tuple[dict[str, Any], Any]:
    return json.loads((parity / "dev" / "anomalyclip.json").read_text()), np.load(parity / "dev" / "anomalyclip.npz")


def authors_file(seed: int, path: Path, width: int = 128, projections: bool = True) -> Path:
    """A checkpoint in the authors' layout, dead tensors included."""
    import tiny_clip

    state = {
        f"ctx_{side}": tiny_clip.random_tensor(seed, f"anomalyclip/ctx_{side}", (1, 1, 12, width), 0.5)
        for side in ("pos", "neg")
    }
    for i in range(8):
        name = f"compound_prompts_text.{i}"
        state[name] = tiny_clip.random_tensor(seed, f"anomalyclip/{name}", (4, width), 0.5)
        if projections:
            state[f"compound_prompt_projections.{i}.weight"] = torch.zeros(896, width)
            state[f"compound_prompt_projections.{i}.bias"] = torch.zeros(896)
    state["tokenized_prompts_pos"] = torch.zeros(1, 1, 77, dtype=torch.int32)
    torch.save({"prompt_learner": state}, path)
    return path


@pytest.fixture(scope="module")
def files(parity: Path, reference: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import tiny_clip

    folder, seed = tmp_path_factory.mktemp("anomalyclip"), reference[0]["seed"]
    weights = tiny_clip.tiny_clip_state_dict(seed)
    assert tiny_clip.fingerprint(weights) == reference[0]["clip"]["fingerprint"]
    torch.save(weights, folder / "tiny.pt")
    return {"backbone": folder / "tiny.pt", "prompts": authors_file(seed, folder / "prompts.pth")}


def build(files: dict[str, Path], **arguments: Any) -> Any:
    backbone = zsad.load_backbone(
        f"file:{files['backbone']}", activation="quick_gelu", position_embedding="bilinear", image_size=112
    )
    return zsad.create("anomalyclip", backbone=backbone, checkpoint=files["prompts"], **arguments)


@pytest.fixture(scope="module")
def images(reference: Any) -> torch.Tensor:
    raw = torch.from_numpy(reference[1]["input_uint8"]).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(zsad.images.preprocessing.CLIP_MEAN), torch.tensor(zsad.images.preprocessing.CLIP_STD)
    found = (raw - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(found[:1], torch.from_numpy(reference[1]["input_first"]), rtol=0, atol=2e-6)
    return found


def close(found: torch.Tensor, stored: np.ndarray[Any, Any], tolerance: float) -> None:
    torch.testing.assert_close(found, torch.from_numpy(stored), rtol=0, atol=tolerance)


@pytest.mark.parametrize("prefix", ["", "nohalf/"])
def test_text_maps_and_scores(reference: Any, files: dict[str, Path], images: torch.Tensor, prefix: str) -> None:
    arrays = reference[1]
    detector = build(files, taps=TAPS, half_prompts=not prefix)
    with torch.inference_mode():
        raw = detector.prompts.encode(detector.backbone, half=not prefix)
        context = detector.prepare("ceramic tile")
        features = detector.encode(images)
        found = detector(images, context)
        maps = detector.layer_maps(features, context)
    close(raw[0], arrays[f"{prefix}text_features_raw"], FEATURES)
    close(context.text, arrays[f"{prefix}text_features"], FEATURES)
    close(found.pred_score, arrays[f"{prefix}image_probs"][0, :, 1], SCORES)
    close(sum(maps.values()), arrays[f"{prefix}anomaly_map_raw"], SCORES)
    close(found.anomaly_map, arrays[f"{prefix}anomaly_map"], SCORES)
    if not prefix:
        for layer in TAPS:
            close(maps[layer], arrays[f"map_{layer}"], SCORES)


def test_features(reference: Any, files: dict[str, Path], images: torch.Tensor) -> None:
    arrays = reference[1]
    with torch.inference_mode():
        features = build(files, taps=TAPS).encode(images)
    unit = np.linalg.norm(arrays["image_features_raw"], axis=-1).mean()
    close(features.image, arrays["image_features_raw"], FEATURES * max(1.0, float(unit)))
    for layer in TAPS:
        close(features.streams["local"][layer].patches, arrays[f"patch_features_{layer}"][:, 1:], FEATURES)


def test_sentences_and_tokens(reference: Any, files: dict[str, Path]) -> None:
    detector = build(files)
    sentences = detector.prompts.sentences()
    assert list(sentences) == reference[0]["prompts"]
    close(detector.backbone.tokenize(list(sentences)).int(), reference[1]["tokens"], 0)
    assert detector.prepare("anything").sentences == {"normal": sentences[:1], "anomalous": sentences[1:]}


@pytest.mark.parametrize("prefix", ["", "nohalf/"])
def test_losses_and_gradients(reference: Any, files: dict[str, Path], images: torch.Tensor, prefix: str) -> None:
    settings, arrays = reference
    detector = build(files, taps=TAPS, half_prompts=not prefix)
    batch = Batch(images, torch.tensor(settings["train"]["labels"]), torch.from_numpy(arrays["train/gt"]), ("x",) * 3)
    parts = detector.loss(batch, detector.prepare())
    sum(parts.values()).backward()  # type: ignore[union-attr]
    parts = {name: part.detach() for name, part in parts.items()}
    assert float(parts["picture"]) == pytest.approx(float(arrays[f"{prefix}train/image_loss"]), rel=LOSSES)
    for layer in TAPS:
        assert float(parts[f"map {layer}"]) == pytest.approx(
            4 * float(arrays[f"{prefix}train/terms_{layer}"].sum()), rel=LOSSES
        )
    ours = {"ctx_pos": detector.prompts.normal, "ctx_neg": detector.prompts.anomalous}
    ours |= {f"compound_prompts_text.{i}": tensor for i, tensor in enumerate(detector.prompts.deep)}
    for name, norm in settings[f"{prefix}grad_norms"].items():
        assert float(ours[name].grad.norm()) == pytest.approx(norm, rel=GRADIENTS), name
        stored = torch.from_numpy(arrays[f"{prefix}train/grad/{name}"]).reshape(ours[name].shape)
        torch.testing.assert_close(ours[name].grad, stored, rtol=1e-3, atol=1e-4 * norm)


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


def test_crane_layout_needs_a_keyword(parity: Path, files: dict[str, Path], reference: Any, tmp_path: Path) -> None:
    crane = authors_file(reference[0]["seed"], tmp_path / "crane.pth", projections=False)
    with pytest.raises(CheckpointMismatch, match=r"Crane's layout.*crane_layout=True"):
        build(files | {"prompts": crane})
    accepted = build(files | {"prompts": crane}, crane_layout=True)
    assert torch.equal(accepted.prompts.normal, build(files).prompts.normal)


def test_real_crane_files(root: Path) -> None:
    path = root.parent / "shared" / "checkpoints" / "crane_visa_epoch5.pth"
    if not path.is_file():
        pytest.skip("the published prompt files are not beside this checkout")
    from zsad.weights.checkpoints import read_state_dict

    state = read_state_dict(path)["prompt_learner"]
    backbone = zsad.backbones.clip.CLIP(
        "wide",
        vision=zsad.backbones.vit.TowerShape(64, 2, 1, 64),
        text=zsad.backbones.vit.TowerShape(768, 1, 12, 64),
        patch_size=16,
        native_size=80,
        dim=32,
        activation="quick_gelu",
    ).requires_grad_(False)
    with pytest.raises(CheckpointMismatch, match="start token differs"):
        zsad.create("anomalyclip", backbone=backbone, checkpoint=path, crane_layout=True)
    backbone.token_embedding.weight[-2] = state["token_prefix_pos"].flatten()
    loaded = zsad.create("anomalyclip", backbone=backbone, checkpoint=path, crane_layout=True)
    assert float(loaded.prompts.normal.detach().norm()) == pytest.approx(
        3.2695, abs=1e-4
    )  # methods' notes on the published file
    assert float(loaded.prompts.deep[7].detach().norm()) == pytest.approx(2.0494, abs=1e-4)


def test_wrong_files_are_refused(parity: Path, files: dict[str, Path], tmp_path: Path) -> None:
    wide = authors_file(1, tmp_path / "wide.pth", width=64)
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


def test_golden(tiny: Any) -> None:
    """The seeded tiny backbone's outputs, rounded: a change of the numbers is seen without the reference files."""
    stored = json.loads((Path(__file__).parents[1] / "golden" / "anomalyclip.json").read_text())
    torch.manual_seed(0)
    detector = zsad.create("anomalyclip", backbone=tiny.backbone)
    size = tiny.backbone.image_size
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        found = detector(F.interpolate(images, size=size, mode="bilinear") * 2 - 1, detector.prepare())
    assert found.pred_score.tolist() == pytest.approx(stored["pred_score"], abs=1e-5)
    assert found.anomaly_map[:, ::16, ::16].flatten().tolist() == pytest.approx(stored["anomaly_map_stride16"], abs=1e-5)
