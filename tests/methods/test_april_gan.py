"""APRIL-GAN against the stored outputs of its authors' code, and its laws."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import CheckpointMismatch, NeedsSet, NotTrained, UsageError
from zsad.types import Batch, ImageFeatures

# parity/README.md: features 1e-5, maps and scores 2e-5, losses 1e-5 and gradient norms 1e-4 relative
FEATURES, SCORES, LOSSES, GRADIENTS = 1e-5, 2e-5, 1e-5, 1e-4
TAPS = (6, 12, 18, 24)
SETTINGS = {"": ("gelu", 112), "native70/": ("quick_gelu", 70)}  # at the native size their loader keeps OpenAI's activation


@pytest.fixture(scope="module")
def reference(parity: Path) -> tuple[dict[str, Any], Any]:
    return json.loads((parity / "dev" / "aprilgan.json").read_text()), np.load(parity / "dev" / "aprilgan.npz")


@pytest.fixture(scope="module")
def files(parity: Path, reference: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The backbone as a state dict, the projections in the layout that the authors' training writes."""
    import tiny_clip

    folder, seed = tmp_path_factory.mktemp("aprilgan"), reference[0]["seed"]
    weights = tiny_clip.tiny_clip_state_dict(seed)
    assert tiny_clip.fingerprint(weights) == reference[0]["clip"]["fingerprint"]
    torch.save(weights, folder / "tiny.pt")
    layers = {}
    for i in range(4):
        layers[f"fc.{i}.weight"] = tiny_clip.random_tensor(seed, f"aprilgan/fc.{i}.weight", (64, 128), 128**-0.5)
        layers[f"fc.{i}.bias"] = tiny_clip.random_tensor(seed, f"aprilgan/fc.{i}.bias", (64,), 0.02)
    torch.save({"trainable_linearlayer": layers}, folder / "layers.pth")
    return {"backbone": folder / "tiny.pt", "layers": folder / "layers.pth"}


def build(files: dict[str, Path], prefix: str = "", **arguments: Any) -> Any:
    activation, size = SETTINGS[prefix]
    backbone = zsad.load_backbone(
        f"file:{files['backbone']}", activation=activation, position_embedding="bicubic_antialias", image_size=size
    )
    return zsad.create("april_gan", backbone=backbone, checkpoint=files["layers"], **arguments)


@pytest.fixture(scope="module")
def built(reference: Any, files: dict[str, Path]) -> Callable[[str], tuple[Any, Any]]:
    """Detector and context of the stored class, by the settings' prefix; 420 sentences are encoded once."""

    @cache
    def made(prefix: str) -> tuple[Any, Any]:
        detector = build(files, prefix)
        with torch.no_grad():
            return detector, detector.prepare(reference[0]["class_used"])

    return made


def pictures_of(reference: Any, prefix: str) -> torch.Tensor:
    raw = torch.from_numpy(reference[1][f"{prefix}input_uint8"]).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(zsad.images.preprocessing.CLIP_MEAN), torch.tensor(zsad.images.preprocessing.CLIP_STD)
    found = (raw - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(found[:1], torch.from_numpy(reference[1][f"{prefix}input_first"]), rtol=0, atol=2e-6)
    return found


def close(found: torch.Tensor, stored: Any, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.from_numpy(stored), rtol=0, atol=tolerance)


# ------------------------------------------------------------------ equality with the authors' outputs
@pytest.mark.parametrize("prefix", SETTINGS)
def test_zero_shot(reference: Any, built: Any, prefix: str) -> None:
    arrays, (detector, context) = reference[1], built(prefix)
    with torch.inference_mode():
        found = detector(pictures_of(reference, prefix)[:3], context)
        other = detector.prepare(reference[0]["class_names"][1])
    close(found.pred_score, arrays[f"{prefix}text_probs"][:, 1], SCORES)
    close(found.anomaly_map, arrays[f"{prefix}zero_shot_map"], SCORES)
    for index, made in enumerate((context, other)):
        close(made.text[0].T, arrays[f"{prefix}text_features_{index}"], FEATURES)
    visual = detector.backbone.visual
    positions = zsad.backbones.vit.resize_positions(
        visual.positional_embedding, visual.grid(pictures_of(reference, prefix)), visual.position_mode
    )
    close(positions, arrays[f"{prefix}positional_embedding_resized"], FEATURES)


def test_layers(reference: Any, built: Any) -> None:
    """Every stored step of the first picture: raw tokens, projections, logits, maps; distances to both references."""
    arrays, (detector, plain), images = reference[1], built(""), pictures_of(reference, "")
    with torch.no_grad():
        features = detector.encode(images[:1])
        context = replace(plain, banks=detector.banks(zsad.References(images[3:])))
        margins, distances = detector.margins(features, context), detector.reference_distances(features, context)
        resized = detector.layer_margins(features, context)
        projected = [
            F.normalize(project(tap.patches), dim=-1)
            for project, tap in zip(detector.projections, features.taps.values(), strict=True)
        ]
    close(features.image, arrays["image_features_raw"], FEATURES)
    for index, layer in enumerate(TAPS):
        tap = features.taps[layer]
        close(torch.cat([tap.cls[:, None], tap.patches], dim=1), arrays[f"patch_tokens_{layer}"], FEATURES)
        close(projected[index], arrays[f"adapter_out_normalised_{layer}"], FEATURES)
        normal, anomalous = torch.from_numpy(arrays[f"logits_{layer}"]).unbind(dim=-1)
        torch.testing.assert_close(margins[layer], anomalous - normal, rtol=0, atol=1e-3)  # of 100 times a cosine
        torch.testing.assert_close(margins[layer].sigmoid(), (anomalous - normal).sigmoid(), rtol=0, atol=SCORES)
        close(resized[layer].sigmoid(), arrays[f"img0/zero_shot_map_{layer}"], SCORES)
        close(distances[layer].unflatten(1, (8, 8))[0], arrays[f"few_shot_grid_{layer}"], SCORES)


@pytest.mark.parametrize("shots", [1, 2])
@pytest.mark.parametrize("prefix", SETTINGS)
def test_few_shot(reference: Any, built: Any, prefix: str, shots: int) -> None:
    arrays, (detector, plain), images = reference[1], built(prefix), pictures_of(reference, prefix)
    with torch.inference_mode():
        context = replace(plain, banks=detector.banks(zsad.References(images[3 : 3 + shots])))
        found = list(detector.score_set([detector.encode(images[i : i + 1]) for i in range(3)], context))
    total = arrays[f"{prefix}zero_shot_map"] + arrays[f"{prefix}few_shot_map_k{shots}"]
    close(torch.cat([one.anomaly_map for one in found]), total, SCORES)
    close(torch.cat([one.pred_score for one in found]), arrays[f"{prefix}few_shot_score_k{shots}"], SCORES)


@pytest.mark.parametrize("cached", [False, True])
def test_loss_and_gradients(reference: Any, built: Any, cached: bool) -> None:
    (settings, arrays), (detector, context), images = reference, built(""), pictures_of(reference, "")[:3]
    detector.zero_grad()
    masks = torch.from_numpy(arrays["train/gt"])
    batch = Batch(detector.encode(images) if cached else images, torch.tensor([1, 0, 1]), masks, ("x",) * 3)
    parts = detector.loss(batch, context)
    sum(parts.values()).backward()  # type: ignore[union-attr]
    for terms, layer in zip(arrays["train/terms"], TAPS, strict=True):
        assert parts[f"focal {layer}"].item() == pytest.approx(float(terms[0]), rel=LOSSES)
        assert parts[f"dice {layer}"].item() == pytest.approx(float(terms[1]), rel=LOSSES)
    assert sum(part.item() for part in parts.values()) == pytest.approx(float(arrays["train/loss"]), rel=LOSSES)
    gradients = {key.replace("projections.", "fc."): p.grad for key, p in detector.named_parameters() if p.requires_grad}
    assert set(gradients) == set(settings["train/grad_norms"])
    for key, norm in settings["train/grad_norms"].items():
        assert gradients[key].norm().item() == pytest.approx(norm, rel=GRADIENTS), key


# ------------------------------------------------------------------ the authors' files
def test_a_string_backbone_follows_the_recipe(files: dict[str, Path]) -> None:
    detector = zsad.create("april_gan", backbone=f"file:{files['backbone']}", checkpoint=files["layers"])
    backbone = detector.backbone
    assert (backbone.image_size, backbone.activation, backbone.position_embedding) == (518, "gelu", "bicubic_antialias")
    assert detector.trained
    assert detector.layers == TAPS


def test_wrong_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    good = torch.load(files["layers"], weights_only=True)["trainable_linearlayer"]

    def refused(state: dict[str, Any], message: str, **arguments: Any) -> None:
        torch.save(state, tmp_path / "layers.pth")
        with pytest.raises(CheckpointMismatch, match=message):
            build(files | {"layers": tmp_path / "layers.pth"}, **arguments)

    refused({"trainable_linearlayer": good}, r"unexpected: projections\.2\.bias", taps=(12, 24))
    less = {key: tensor for key, tensor in good.items() if key != "fc.3.bias"}
    refused({"trainable_linearlayer": less}, r"missing: projections\.3\.bias")
    refused({"trainable_linearlayer": good | {"surplus": torch.zeros(1)}}, "unexpected: surplus")
    wide = good | {"fc.0.weight": torch.zeros(64, 256)}
    refused({"trainable_linearlayer": wide}, r"projections\.0\.weight is \(64, 256\) instead of \(64, 128\)")
    refused({"prompt_learner": {"ctx_pos": torch.zeros(1)}}, "missing: projections.*unexpected: prompt_learner")


def test_without_the_wrapper(files: dict[str, Path], tmp_path: Path) -> None:
    torch.save(torch.load(files["layers"], weights_only=True)["trainable_linearlayer"], tmp_path / "bare.pth")
    found = build(files | {"layers": tmp_path / "bare.pth"}).learned_state()
    for key, tensor in build(files).learned_state().items():
        assert torch.equal(found[key], tensor)


# ------------------------------------------------------------------ laws, on the tiny backbone
@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With two sentences in place of 420."""
    own = tmp_path_factory.mktemp("prompts") / "two.toml"
    own.write_text('templates = ["a photo of a {}."]\n[states]\nnormal = ["{}"]\nanomalous = ["damaged {}"]\n')
    torch.manual_seed(0)
    return zsad.create("april_gan", backbone=zsad.load_backbone("tiny"), prompts=str(own))


def pictures(count: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 80, 80, generator=torch.Generator().manual_seed(seed))


def test_taps_follow_the_depth(tiny: Any) -> None:
    assert tiny.layers == (3, 6, 9, 12)
    assert zsad.create("april_gan", backbone=tiny.backbone, taps=[2, 5]).map_range == (0.0, 2.0)


def test_sentences(tiny: Any) -> None:
    sentences = zsad.prompts.prompt_set.PromptSet.load(zsad.create("april_gan", backbone=tiny.backbone).prompts).sentences(
        "pipe_fryum"
    )
    assert (len(sentences["normal"]), len(sentences["anomalous"])) == (7 * 35, 5 * 35)
    assert sentences["normal"][0] == "a bad photo of a pipe_fryum."
    assert sentences["anomalous"][-1] == "this is one pipe_fryum with damage in the scene."


def test_margin_is_the_softmax_of_two(tiny: Any) -> None:
    with torch.inference_mode():
        context, features = tiny.prepare("nut"), tiny.encode(pictures())
        margin = tiny.margins(features, context)[6]
        projected = F.normalize(tiny.projections[1](features.taps[6].patches), dim=-1)
        both = (100 * projected @ context.text[0].T).softmax(dim=-1)
    torch.testing.assert_close(margin.sigmoid(), both[..., 1], rtol=0, atol=2e-5)


class OnDisk:
    """A sequence that makes features when asked, and counts."""

    def __init__(self, detector: Any, images: torch.Tensor) -> None:
        self.detector, self.images, self.read = detector, images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageFeatures:
        if index >= len(self.images):
            raise IndexError(index)
        self.read += 1
        return self.detector.encode(self.images[index : index + 1])  # type: ignore[no-any-return]


def test_the_set_is_read_twice_and_lazily(tiny: Any) -> None:
    with torch.inference_mode():
        context = tiny.prepare("nut", zsad.References(pictures(2, seed=9)))
        lazy = OnDisk(tiny, pictures())
        found = tiny.score_set(lazy, context)
        first = next(found)
        assert lazy.read == 4  # all three for the maxima, one for its answer
        rest = list(found)
        assert lazy.read == 6
        texts = tiny.text_score(tiny.encode(pictures()), context)
    scores = torch.cat([one.pred_score for one in [first, *rest]])
    highest = torch.stack([one.anomaly_map.max() for one in [first, *rest]])
    by_hand = 0.5 * (texts + (highest - highest.min()) / (highest.max() - highest.min()))
    torch.testing.assert_close(scores, by_hand)


def test_a_set_of_one_has_no_range(tiny: Any) -> None:
    with torch.inference_mode():
        context, features = tiny.prepare("nut", zsad.References(pictures(1))), tiny.encode(pictures(1, seed=3))
        [found] = tiny.score_set([features], context)
    torch.testing.assert_close(found.pred_score, tiny.text_score(features, context) / 2)


def test_references_need_the_set(tiny: Any) -> None:
    context = tiny.prepare("nut", zsad.References(pictures(1)))
    assert tiny.needs_set(context)
    assert not tiny.needs_set(tiny.prepare("nut"))
    with pytest.raises(NeedsSet, match=r"cannot score a picture by itself. Call score_set"):
        tiny(pictures(), context)


def test_a_reference_is_at_zero_distance_of_itself(tiny: Any) -> None:
    with torch.inference_mode():
        features, images = tiny.encode(pictures()), pictures()
        own, more = (tiny.prepare("nut", zsad.References(chosen)) for chosen in (images[:1], images))
        for distances in tiny.reference_distances(features, more).values():
            assert distances.abs().max() < 1e-5
        few, many = tiny.reference_distances(features, own), tiny.reference_distances(features, more)
    assert all((many[layer] <= few[layer] + 1e-6).all() for layer in few)


def test_what_it_cannot_do_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(NotTrained, match=r"no learned weights yet.*checkpoint="):
        zsad.Inspector(tiny)
    with pytest.raises(UsageError, match="has no visual"):
        zsad.create("april_gan", backbone=zsad.load_backbone("compact"))
    with pytest.raises(UsageError, match="learns from masks; got a batch without"):
        tiny.loss(Batch(pictures(), torch.zeros(3), None, ("nut",) * 3), tiny.prepare("nut"))
    own = tmp_path / "mine.toml"
    own.write_text('templates = ["{}."]\n[states]\ngood = ["clean {}"]\nbad = ["rusty {}"]\n')
    with pytest.raises(UsageError, match="needs the classes 'normal' and 'anomalous'"):
        zsad.create("april_gan", backbone=tiny.backbone, prompts=str(own)).prepare("nut")


# ------------------------------------------------------------------ what the repository holds itself
def test_golden(tiny: Any) -> None:
    """The seeded tiny backbone's outputs, rounded: a change of the numbers is seen without the reference files."""
    stored = json.loads((Path(__file__).parents[1] / "golden" / "april_gan.json").read_text())
    weights = torch.Generator().manual_seed(4)
    detector = zsad.create("april_gan", backbone=tiny.backbone)
    detector.load_learned({key: torch.randn(t.shape, generator=weights) / 8 for key, t in detector.learned_state().items()})
    with torch.inference_mode():
        text = detector.prepare("metal gasket")
        plain, context = detector(pictures(), text), replace(text, banks=detector.banks(zsad.References(pictures(2, seed=9))))
        fused = list(detector.score_set([detector.encode(one[None]) for one in pictures()], context))
    found = {
        "pred_score": plain.pred_score,
        "anomaly_map_stride16": plain.anomaly_map[:, ::16, ::16].flatten(),
        "few_shot_score": torch.cat([one.pred_score for one in fused]),
        "few_shot_map_stride16": torch.cat([one.anomaly_map for one in fused])[:, ::16, ::16].flatten(),
    }
    for key, tensor in found.items():
        assert tensor.tolist() == pytest.approx(stored[key], abs=1e-4), key
