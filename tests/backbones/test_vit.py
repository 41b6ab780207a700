"""The trunk against open_clip's own forward and against slow loops by hand."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zsad
from zsad.backbones.filling import fill, unfilled
from zsad.backbones.openclip import build
from zsad.backbones.vit import LocalPath, resize_positions
from zsad.errors import UsageError

SENTENCES = ["a photo of a metal nut.", "damaged bolt with a long scratch across the thread", "x"]


ARCHITECTURES = ("ViT-B-32-quickgelu", "ViT-B-16", "ViT-B-16-plus-240", "ViT-L-14-336")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_are_those_of_open_clip(architecture: str) -> None:
    open_clip = pytest.importorskip("open_clip")
    with unfilled():
        ours, theirs = build(architecture, architecture), open_clip.create_model(architecture)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def draw(model: Any, ids: Tensor) -> None:
    """First values for all but norms; of the vocabulary, which is a third of all, for the tokens that are read."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "token_embedding.weight":
                weight.zero_()
                weight[ids.unique()] = 0.02 * torch.randn(len(ids.unique()), weight.shape[1])
            elif "ln_" not in name:
                weight.normal_(std=0.03)


@pytest.mark.parametrize(("architecture", "tap"), [(one, tap) for one, tap in zip(ARCHITECTURES, (2, 1, 2, 1), strict=True)])
def test_equals_open_clip(
    architecture: str, tap: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With two blocks in each tower: the others are alike."""
    open_clip = pytest.importorskip("open_clip")
    caplog.set_level(logging.ERROR)  # open_clip warns that the weights are random
    config = open_clip.get_model_config(architecture)
    for tower in ("vision_cfg", "text_cfg"):
        config[tower]["layers"] = 2
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, architecture, config)
    ids = open_clip.get_tokenizer(architecture)(SENTENCES)
    with unfilled():
        theirs, ours = open_clip.create_model(architecture).eval(), build(architecture, architecture).eval()
    draw(theirs, ids)
    fill(ours, theirs.state_dict())
    images = torch.randn(1, 3, ours.image_size, ours.image_size)
    states: dict[str, Tensor] = {}
    block = theirs.visual.transformer.resblocks[tap - 1]
    block.register_forward_hook(lambda _m, _i, output: states.update(x=output))
    with torch.inference_mode():
        found = ours.encode_image(images, (tap,))
        torch.testing.assert_close(found.image, theirs.encode_image(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.taps[tap].patches, states["x"][:, 1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.tokenize(SENTENCES), ids)
        torch.testing.assert_close(ours.encode_text(SENTENCES), theirs.encode_text(ids), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.load_backbone("tiny")


def images(size: int = 80, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def vv_by_hand(block: Any, x: Tensor) -> Tensor:
    """V-V attention with explicit weights, one head."""
    h = block.ln_1(x)
    width = x.shape[-1]
    v = h @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
    weights = (v @ v.transpose(1, 2) / width**0.5).softmax(-1)
    return block.attn.out_proj(weights @ v)  # type: ignore[no-any-return]


def test_local_path_by_hand(tiny: Any) -> None:
    path = LocalPath(6, lambda q, k, v: F.scaled_dot_product_attention(v, v, v))
    found = tiny.encode_image(images(), (3, 8, 12), local=path)
    x = tiny.visual.embed(images())
    own = x
    for layer, block in enumerate(tiny.visual.blocks, 1):
        if layer >= 6:
            own = (x if layer == 6 else own) + vv_by_hand(block, x)
        x = block(x)
        if layer < 6:
            own = x
        if layer in (3, 8, 12):
            torch.testing.assert_close(found.streams["local"][layer].patches, own[:, 1:], rtol=0, atol=2e-5)
            torch.testing.assert_close(found.taps[layer].patches, x[:, 1:], rtol=0, atol=2e-5)
    torch.testing.assert_close(found.image, tiny.encode_image(images()).image, rtol=0, atol=1e-5)


class Appended:
    """Two tokens appended before block 1, left alone afterwards."""

    def __init__(self) -> None:
        self.layers: list[int] = []

    def insert(self, x: Tensor, layer: int) -> Tensor:
        self.layers.append(layer)
        return torch.cat([x, torch.ones(len(x), 2, x.shape[-1])], dim=1) if layer == 1 else x


def test_prompts_seam(tiny: Any) -> None:
    prompts = Appended()
    found = tiny.encode_image(images(), (12,), prompts=prompts)
    assert prompts.layers == list(range(1, 13))
    assert found.taps[12].patches.shape == (2, 25, 64)
    assert found.taps[12].grid == (5, 5)
    assert not torch.allclose(found.image, tiny.encode_image(images()).image)


def test_project_is_explicit(tiny: Any) -> None:
    tap = tiny.encode_image(images(), (12,)).taps[12]
    torch.testing.assert_close(tiny.visual.project(tap.cls), tiny.encode_image(images()).image)
    torch.testing.assert_close(tiny.visual.project(tap.cls, norm=False), tap.cls @ tiny.visual.proj)
    assert tiny.visual.project(tap.patches, proj=False).shape == tap.patches.shape


def test_text_is_independent_of_padding_and_order(tiny: Any) -> None:
    together = tiny.encode_text(SENTENCES)
    for index, sentence in enumerate(SENTENCES):
        torch.testing.assert_close(tiny.encode_text([sentence])[0], together[index], rtol=0, atol=5e-6)
    torch.testing.assert_close(tiny.encode_text(SENTENCES, batch_size=1), together, rtol=0, atol=5e-6)


def test_a_long_sentence_is_refused(tiny: Any) -> None:
    with pytest.raises(UsageError, match=r"has \d+ tokens; tiny reads 77"):
        tiny.encode_text(["gasket " * 200])


@pytest.mark.parametrize("taps", [(0,), (13,), (3, 99)])
def test_taps_outside_are_refused(tiny: Any, taps: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"must lie in 1\.\.12"):
        tiny.encode_image(images(), taps)


def test_other_sizes_resize_positions(tiny: Any) -> None:
    assert tiny.encode_image(images(112), (2,)).taps[2].grid == (7, 7)
    embedding = tiny.visual.positional_embedding
    assert resize_positions(embedding, (5, 5), "bicubic") is embedding
    square = embedding[1:].T.reshape(1, 64, 5, 5)
    modes = {"bilinear": False, "bicubic": False, "bicubic_antialias": True}
    results = []
    for mode, antialias in modes.items():
        expected = F.interpolate(square, size=(3, 4), mode=mode.split("_")[0], antialias=antialias)
        found = resize_positions(embedding, (3, 4), mode)
        torch.testing.assert_close(found[1:], expected[0].flatten(1).T)
        torch.testing.assert_close(found[0], embedding[0])
        results.append(found)
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[1], results[2])


def test_image_size_must_fit_the_patch() -> None:
    with pytest.raises(UsageError, match="no multiple of the patch size 16"):
        zsad.load_backbone("tiny", image_size=100)
    with pytest.raises(UsageError, match="choose one of gelu, quick_gelu"):
        zsad.load_backbone("tiny", activation="relu")
