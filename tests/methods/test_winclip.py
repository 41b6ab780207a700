"""WinCLIP's laws; that it equals the reference implementation is tests/verification's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment.windows import harmonic_map, incidence, window_tokens
from zsad.errors import UsageError


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


@pytest.mark.slow
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
