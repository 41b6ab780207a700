"""TIPS: its files, its towers, and other methods on it; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zsad
from zsad.backbones import tips_files
from zsad.backbones.tips import TIPSVision
from zsad.backbones.tips_text import LONGEST, sinusoids
from zsad.errors import CheckpointMismatch, MissingExtra, SizeMismatch, SourceNotFound, UsageError
from zsad.verification.tiny_tips import tiny_tips_text, tiny_tips_vision


@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.load_backbone("tips-tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files such as the published ones, of two blocks."""
    folder = tmp_path_factory.mktemp("tips")
    write(folder / "small_vision.npz", tiny_tips_vision(1, layers=2))
    write(folder / "small_text.npz", tiny_tips_text(1, layers=2, vocab_size=50))
    (folder / "tokenizer.model").write_bytes(b"none")
    return folder


def write(path: Path, state: dict[str, torch.Tensor]) -> None:
    np.savez(path, **{key: tensor.numpy() for key, tensor in state.items()})


def pictures(count: int = 2, size: int = 70) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


# ------------------------------------------------------------------ the image tower
def test_features(tiny: Any) -> None:
    assert (tiny.image_size, tiny.depth, tiny.activation, tiny.position_embedding) == (70, 12, "gelu", "bilinear_antialias")
    with torch.inference_mode():
        features = tiny.encode_image(pictures(), (1, 12))
        classes, patches = tiny.encode_tokens(pictures())
    assert features.image.shape == (2, 64)
    assert torch.equal(features.image, classes[:, 0])
    assert features.taps[1].patches.shape == (2, 25, 64)
    assert features.taps[12].grid == patches.grid == (5, 5)
    torch.testing.assert_close(tiny.vision.ln_post(features.taps[12].patches), patches.patches)
    with pytest.raises(UsageError, match=r"taps=\(13,\) must lie in 1..12"):
        tiny.encode_image(pictures(), (13,))
    with pytest.raises(SizeMismatch, match="The nearest is 84"):
        zsad.load_backbone("tips-tiny", image_size=80)


def test_the_register_has_no_position(tiny: Any) -> None:
    small, large = tiny.vision.embed(pictures()), tiny.vision.embed(pictures(size=112))
    assert torch.equal(small[:, :2], large[:, :2])
    assert torch.equal(small[0, 1], tiny.vision.registers[0])
    assert torch.equal(small[0, 0], tiny.vision.class_embedding + tiny.vision.positional_embedding[0])


def test_pictures_come_in_0_to_1_by_a_bilinear_resize(tiny: Any) -> None:
    from PIL import Image

    rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(rgb).resize((70, 70), Image.Resampling.BILINEAR))
    assert torch.equal(tiny.preprocess(rgb), torch.from_numpy(resized.copy()).permute(2, 0, 1) / 255)


@pytest.mark.slow
def test_image_methods_run_on_it() -> None:
    detector = zsad.create("musc", backbone="tips-tiny", taps=(3, 12))
    assert detector.backbone.image_size == 518
    detector = zsad.create("musc", backbone=zsad.load_backbone("tips-tiny"))
    with torch.inference_mode():
        features = [detector.encode(pictures(6)[i : i + 1]) for i in range(6)]
        found = list(detector.score_set(features, detector.prepare()))
    assert all(torch.isfinite(one.pred_score).all() for one in found)
    with pytest.raises(UsageError, match="anomalyclip cannot run on the backbone 'tips-tiny', which has no visual"):
        zsad.create("anomalyclip", backbone=detector.backbone)


# ------------------------------------------------------------------ the text tower
def test_positions_by_hand() -> None:
    found = sinusoids(3, 6)  # time scales 1, 100, 10000
    expected = [2.0, 0.02, 0.0002]
    assert found[2].tolist() == pytest.approx([*map(math.sin, expected), *map(math.cos, expected)], abs=1e-6)


def test_lengths_do_not_mix(tiny: Any) -> None:
    lines = ["a nut", "a photo of the damaged nut", "nut", "two nuts"]
    with torch.inference_mode():
        together, alone = tiny.encode_text(lines), torch.cat([tiny.encode_text([line]) for line in lines])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        again = tiny.text(tiny.tokenize(lines), batch_size=1)
    torch.testing.assert_close(again, together, rtol=0, atol=1e-5)


def test_a_prefix_is_in_front_and_cuts_the_end(tiny: Any) -> None:
    prefix = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    ids = list(range(3, 3 + LONGEST))
    with torch.inference_mode():
        whole, cut = tiny.text([ids], prefix), tiny.text([ids[: LONGEST - 8]], prefix)
        assert torch.equal(whole, cut)
        assert not torch.allclose(tiny.text([ids]), cut)


def test_sentences_that_do_not_fit(tiny: Any) -> None:
    with pytest.raises(UsageError, match="has 65 tokens; tips-tiny reads 1 to 64"):
        tiny.encode_text(["nut " * 65])
    with pytest.raises(UsageError, match="has 0 tokens"):
        tiny.encode_text([" "])


# ------------------------------------------------------------------ files
def test_a_folder(folder: Path) -> None:
    loaded = zsad.load_backbone(f"tips:{folder}", image_size=112)
    assert (loaded.depth, loaded.image_size, loaded.temperature) == (2, 112, 0.015625)
    assert len(loaded.weights_sha256) == 64
    native = zsad.load_backbone("tips:", **{key: folder / name for key, name in FILES.items()})
    assert (native.image_size, native.weights_sha256) == (70, loaded.weights_sha256)


FILES = {"vision": "small_vision.npz", "text": "small_text.npz", "tokenizer": "tokenizer.model"}


def test_layer_scale_is_folded(folder: Path) -> None:
    """Each block by the published formula, x + gamma * f(norm(x))."""
    tower, state = zsad.load_backbone(f"tips:{folder}").vision, tiny_tips_vision(1, layers=2)
    x = torch.randn(1, 7, 128, generator=torch.Generator().manual_seed(0))
    block, key = tower.transformer.blocks[1], "blocks.1."
    normed = torch.nn.functional.layer_norm(x, (128,), state[f"{key}norm2.weight"], state[f"{key}norm2.bias"], 1e-6)
    hidden = torch.nn.functional.gelu(normed @ state[f"{key}mlp.fc1.weight"].T + state[f"{key}mlp.fc1.bias"])
    added = state[f"{key}ls2.gamma"] * (hidden @ state[f"{key}mlp.fc2.weight"].T + state[f"{key}mlp.fc2.bias"])
    torch.testing.assert_close(block.feed(x), x + added, rtol=0, atol=1e-5)


def test_files_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    good = tiny_tips_vision(1, layers=2)

    def refused(state: dict[str, Any], message: str, error: type[Exception] = CheckpointMismatch) -> None:
        np.savez(tmp_path / "other.npz", **{key: np.asarray(value) for key, value in state.items()})
        with pytest.raises(error, match=message):
            zsad.load_backbone(f"tips:{folder}", vision=tmp_path / "other.npz")

    refused({k: t for k, t in good.items() if k != "register_tokens"}, "other.npz is no tower of TIPS: registers missing")
    refused(good | {"surplus": torch.zeros(2)}, "other.npz does not fit TIPS: Unexpected key.*surplus")
    refused({k: t for k, t in good.items() if k != "norm.bias"}, "does not fit TIPS: Missing key.*ln_post.bias")
    refused({"a": np.array([{}], dtype=object)}, "is no .npz file of arrays that can be read: Object arrays")
    (tmp_path / "torn.npz").write_bytes((folder / "small_vision.npz").read_bytes()[:3000])
    with pytest.raises(CheckpointMismatch, match="torn.npz is no .npz file"):
        zsad.load_backbone(f"tips:{folder}", vision=tmp_path / "torn.npz")
    without = tiny_tips_text(1, layers=2, vocab_size=50)
    del without["temperature"]
    write(tmp_path / "text.npz", without)
    with pytest.raises(CheckpointMismatch, match="text.npz is no text tower of TIPS: temperature is missing"):
        zsad.load_backbone(f"tips:{folder}", text=tmp_path / "text.npz")
    with pytest.raises(SourceNotFound, match="has 0 files whose name ends in _vision.npz; one is needed"):
        zsad.load_backbone(f"tips:{tmp_path}")
    with pytest.raises(SourceNotFound, match="There is no file at 'none.npz'"):
        zsad.load_backbone(f"tips:{folder}", vision="none.npz")


def test_heads_and_gates() -> None:
    def sizes(width: int, swiglu: bool = False) -> TIPSVision:
        state = {"class_embedding": torch.zeros(width), "registers": torch.zeros(1, width)}
        state |= {"conv1.weight": torch.zeros(width, 3, 14, 14), "positional_embedding": torch.zeros(26, width)}
        state["transformer.resblocks.0.mlp.c_fc.weight"] = torch.zeros(96 if swiglu else 48, width)
        state["transformer.resblocks.0.mlp.c_proj.weight"] = torch.zeros(width, 48)
        return tips_files._vision(state, Path("x.npz"))

    assert [sizes(width).transformer.blocks[0].attn.heads for width in (384, 1024, 1152)] == [6, 16, 16]
    assert type(sizes(64, swiglu=True).transformer.blocks[0].mlp).__name__ == "SwiGLU"
    with pytest.raises(UsageError, match="a width of 100, which does not tell the number of attention heads"):
        sizes(100)


def test_the_tokenizer_is_an_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = zsad.load_backbone(f"tips:{folder}")
    with torch.inference_mode():
        backbone.encode_image(pictures(1))  # pictures need no tokens
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtra, match=r"pip install 'zsad\[tips\]'"):
        backbone.encode_text(["nut"])


def test_a_file_that_is_no_tokenizer(folder: Path) -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(UsageError, match="is no SentencePiece model"):
        zsad.load_backbone(f"tips:{folder}").encode_text(["nut"])


def test_published_names_are_listed() -> None:
    rows = {row["name"]: row for row in zsad.listings("backbones")["backbones"]}
    assert rows["tips-l14-hr"]["size"] == "1948 MB"
    assert rows["tips-l14-hr"]["licence"] == "CC BY 4.0"
    assert rows["tips:..."]["from"] == "a file, a folder or the hub"
