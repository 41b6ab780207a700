"""WinCLIP against the stored outputs of an independent implementation, and its laws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment.windows import harmonic_map, incidence, window_tokens
from zsad.errors import UsageError

# parity/README.md: features 1e-5, maps and scores 2e-5
FEATURES, SCORES = 1e-5, 2e-5


@pytest.fixture(scope="module")
def reference(parity: Path) -> tuple[dict[str, Any], Any]:
    return json.loads((parity / "dev" / "winclip.json").read_text()), np.load(parity / "dev" / "winclip.npz")


@pytest.fixture(scope="module")
def detector(parity: Path, reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Built through the public interface from a state dict on disk."""
    import tiny_clip

    weights = tiny_clip.tiny_clip_state_dict(reference[0]["seed"], patch_size=16, image_size=240, vision_layers=12)
    assert tiny_clip.fingerprint(weights) == reference[0]["clip"]["fingerprint"]
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(weights, path)
    return zsad.create("winclip", backbone=f"file:{path}")


@pytest.fixture(scope="module")
def images(reference: Any) -> torch.Tensor:
    """Two test pictures, two references, resized as the fixture's code does it: on the float tensor, without a clamp."""
    raw = torch.from_numpy(reference[1]["images_uint8"]).permute(0, 3, 1, 2).float() / 255
    from torchvision.transforms.v2 import InterpolationMode, Resize

    resized = Resize((240, 240), interpolation=InterpolationMode.BICUBIC, antialias=True)(raw)
    mean, std = torch.tensor(zsad.images.preprocessing.CLIP_MEAN), torch.tensor(zsad.images.preprocessing.CLIP_STD)
    found = (resized - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(found[[0, 2, 3]], torch.from_numpy(reference[1]["input"]), rtol=0, atol=1e-6)
    return found


def close(found: torch.Tensor, stored: np.ndarray[Any, Any], tolerance: float) -> None:
    torch.testing.assert_close(found, torch.from_numpy(stored), rtol=0, atol=tolerance)


def test_sentences_are_the_stored_ones(reference: Any, detector: Any) -> None:
    for name, stored in reference[0]["prompts"].items():
        found = detector.prepare(name).sentences
        assert list(found["normal"]) == stored["normal"]
        assert list(found["anomalous"]) == stored["anomalous"]


def test_features(reference: Any, detector: Any, images: torch.Tensor) -> None:
    arrays = reference[1]
    with torch.inference_mode():
        found, references = detector.encode(images[:2]), detector.encode(images[2:])
    close(found.image, arrays["image_embeddings"], FEATURES)
    for features, prefix in ((found, ""), (references, "ref_")):
        close(features.streams["patches"][12].patches, arrays[f"{prefix}patch_embeddings"], FEATURES)
    for scale in (2, 3):
        close(found.streams["windows"][scale].patches, arrays[f"window_embeddings_{scale}"], FEATURES)
        close(references.streams["windows"][scale].patches, arrays[f"ref_window_embeddings_{scale}"], FEATURES)
        stored = torch.from_numpy(arrays[f"masks_{scale}"]).T.long()
        assert sorted(map(tuple, (window_tokens((15, 15), scale)[:, 1:] - 1).tolist())) == sorted(
            map(tuple, (stored - stored.min()).sort(dim=1).values.tolist())
        )


@pytest.mark.parametrize("index", [0, 1])
def test_zero_shot(reference: Any, detector: Any, images: torch.Tensor, index: int) -> None:
    arrays, name = reference[1], reference[0]["class_names"][index]
    with torch.inference_mode():
        context, features = detector.prepare(name), detector.encode(images[:2])
        found = detector.score(features, context)
        windows = detector.window_scores(features, context)
    close(context.text[0], arrays[f"c{index}/text_embeddings"], FEATURES)
    close(found.pred_score, arrays[f"c{index}/k0/pred_score"], SCORES)
    for scale in (2, 3):
        close(windows[scale], arrays[f"c{index}/k0/window_scores_{scale}"], SCORES)
        close(harmonic_map(windows[scale], scale, (15, 15)), arrays[f"c{index}/k0/map_scale{scale}"], SCORES)
    close(detector.patch_map(found.pred_score, windows, (15, 15)), arrays[f"c{index}/k0/map_15x15"], SCORES)
    close(found.anomaly_map[:, ::8, ::8], arrays[f"c{index}/k0/anomaly_map_stride8"], SCORES)
    if index == 0:
        close(found.anomaly_map[:1], arrays["c0/k0/anomaly_map"], SCORES)


@pytest.mark.parametrize("shots", [1, 2])
def test_few_shot(reference: Any, detector: Any, images: torch.Tensor, shots: int) -> None:
    arrays, stem = reference[1], f"c0/k{shots}/"
    with torch.inference_mode():
        context = detector.prepare(reference[0]["class_names"][0], zsad.References(images[2 : 2 + shots]))
        features = detector.encode(images[:2])
        scores, found = detector.reference_scores(features, context), detector.score(features, context)
    for scale in (2, 3):
        close(scores[f"window_{scale}"], arrays[f"{stem}window_scores_{scale}"], SCORES)
        close(harmonic_map(scores[f"window_{scale}"], scale, (15, 15)), arrays[f"{stem}map_scale{scale}"], SCORES)
    close(scores["patches"].unflatten(1, (15, 15)), arrays[f"{stem}map_patch"], SCORES)
    close(detector.reference_map(scores, (15, 15)), arrays[f"{stem}map_15x15_fewshot"], SCORES)
    close(found.pred_score, arrays[f"{stem}pred_score"], SCORES)
    close(found.anomaly_map[:, ::8, ::8], arrays[f"{stem}anomaly_map_stride8"], SCORES)
    if f"{stem}anomaly_map" in arrays:
        close(found.anomaly_map[:1], arrays[f"{stem}anomaly_map"], SCORES)


# ------------------------------------------------------------------ laws, on the tiny backbone
@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.create("winclip", backbone="tiny")


def pictures(size: int = 240, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def test_windows_by_hand(tiny: Any) -> None:
    """Every window through the whole tower on its own, the slow way."""
    visual = tiny.backbone.visual
    with torch.inference_mode():
        found = tiny.encode(pictures())
        x = visual.embed(pictures())
        for scale in (2, 3):
            for window in (0, 7, 100, len(window_tokens((15, 15), scale)) - 1):
                row, column = divmod(window, 15 - scale + 1)
                chosen = [0] + [1 + (row + i) * 15 + column + j for i in range(scale) for j in range(scale)]
                tokens = x[:, chosen]
                for block in visual.blocks:
                    tokens = block(tokens)
                expected = visual.project(tokens[:, 0])
                torch.testing.assert_close(found.streams["windows"][scale].patches[:, window], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.image, tiny.backbone.encode_image(pictures()).image, rtol=0, atol=1e-5)


def test_aggregation_by_hand() -> None:
    """The product with the incidence matrix is the harmonic mean over the windows that cover a patch."""
    scores = torch.rand(1, 9, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1  # 2 x 2 windows on a 4 x 4 grid
    found = harmonic_map(scores, 2, (4, 4))
    for i in range(4):
        for j in range(4):
            covering = [scores[0, r * 3 + c] for r in range(3) for c in range(3) if r <= i <= r + 1 and c <= j <= c + 1]
            assert found[0, i, j].item() == pytest.approx(len(covering) / sum(1 / s for s in covering).item(), rel=1e-5)
    assert torch.allclose(incidence((4, 4), 2).sum(dim=0), torch.ones(16))


def test_constant_windows_give_a_constant_map(tiny: Any) -> None:
    windows = {2: torch.full((1, 196), 0.3), 3: torch.full((1, 169), 0.3)}
    torch.testing.assert_close(tiny.patch_map(torch.tensor([0.3]), windows, (15, 15)), torch.full((1, 15, 15), 0.3))


def test_score_is_softmax_of_the_class_token(tiny: Any) -> None:
    context, features = tiny.prepare("nut"), tiny.encode(pictures())
    text = F.normalize(context.text[0], dim=-1)
    by_hand = (F.normalize(features.image, dim=-1) @ text.T / 0.07).softmax(-1)[:, 1]
    torch.testing.assert_close(tiny.score(features, context).pred_score, by_hand)


def test_prompts_of_ones_own(tiny: Any, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('templates = ["{}."]\n[states]\nnormal = ["clean {}"]\nanomalous = ["rusty {}", "bent {}"]\n')
    detector = zsad.create("winclip", backbone=tiny.backbone, prompts=str(own))
    assert detector.prepare("nut").sentences == {"normal": ("clean nut.",), "anomalous": ("rusty nut.", "bent nut.")}
    own.write_text('templates = ["{}."]\n[states]\ngood = ["clean {}"]\nbad = ["rusty {}"]\n')
    with pytest.raises(UsageError, match="needs the classes 'normal' and 'anomalous'"):
        detector.prepare("nut")


def test_small_grids_are_refused(tiny: Any) -> None:
    with pytest.raises(UsageError, match="do not fit a grid of 2 x 2"):
        tiny.encode(pictures(32))


def test_patches_are_the_plain_towers(tiny: Any) -> None:
    """The whole picture's patches come from the pass of the windows and are what a plain pass gives."""
    with torch.inference_mode():
        found = tiny.encode(pictures()).streams["patches"][12]
        plain = tiny.backbone.encode_image(pictures(), taps=(12,)).taps[12].patches
    assert found.grid == (15, 15)
    torch.testing.assert_close(found.patches, tiny.backbone.visual.project(plain, proj=False), rtol=0, atol=1e-5)


def test_a_reference_is_at_zero_distance_of_itself(tiny: Any) -> None:
    """So its map is half of the text's, and rounding below zero does not turn the harmonic mean over."""
    with torch.inference_mode():
        features, plain = tiny.encode(pictures()), tiny.prepare("nut")
        context = tiny.prepare("nut", zsad.References(pictures()))
        distances = tiny.reference_map(tiny.reference_scores(features, context), (15, 15))
        alone, fused = tiny.score(features, plain), tiny.score(features, context)
    assert 0 < float(distances.min()) <= float(distances.max()) < 1e-6
    torch.testing.assert_close(fused.pred_score, alone.pred_score / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(fused.anomaly_map, alone.anomaly_map / 2, rtol=0, atol=1e-6)


def test_more_references_never_raise_a_distance(tiny: Any) -> None:
    others = torch.randn(3, 3, 240, 240, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        features = tiny.encode(pictures())
        few, more, turned = (
            tiny.reference_scores(features, tiny.prepare("nut", zsad.References(chosen)))
            for chosen in (others[:1], others, others.flip(0))
        )
    for key, distances in few.items():
        assert (more[key] <= distances).all()
        assert (more[key] < distances).any()
        torch.testing.assert_close(turned[key], more[key], rtol=0, atol=1e-6)


# ------------------------------------------------------------------ what the repository holds itself
def test_golden(tiny: Any) -> None:
    """The seeded tiny backbone's outputs, rounded: a change of the numbers is seen without the reference files."""
    stored = json.loads((Path(__file__).parents[1] / "golden" / "winclip.json").read_text())
    with torch.inference_mode():
        found = tiny(pictures(), tiny.prepare("metal gasket"))
        others = torch.randn(2, 3, 240, 240, generator=torch.Generator().manual_seed(8))
        fused = tiny(pictures(), tiny.prepare("metal gasket", zsad.References(others)))
    assert fused.pred_score.tolist() == pytest.approx(stored["few_shot_score"], abs=2e-5)
    assert fused.anomaly_map[:, ::48, ::48].flatten().tolist() == pytest.approx(stored["few_shot_map_stride48"], abs=2e-5)
    assert found.pred_score.tolist() == pytest.approx(stored["pred_score"], abs=2e-5)
    assert found.anomaly_map[:, ::48, ::48].flatten().tolist() == pytest.approx(stored["anomaly_map_stride48"], abs=2e-5)
    assert hashlib.sha256("\n".join(tiny.prepare("x").sentences["anomalous"]).encode()).hexdigest() == stored["sentences"]
