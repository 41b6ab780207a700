"""DINOv2: the four layouts of its weights, which layer is which, positions, downloads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import zsad
from zsad.backbones.dinov2 import SALIENCY, DINOv2
from zsad.backbones.dinov2_weights import REPOSITORIES, build_dinov2, is_dinov2, own_names
from zsad.errors import CheckpointMismatch, SizeMismatch, UnknownName, UsageError, WeightsUnavailable
from zsad.verification.tiny_dino import swiglu_width, tiny_dino_state_dict

State = dict[str, Tensor]


def tiny(seed: int = 1, **shape: Any) -> State:
    return tiny_dino_state_dict(seed, **{"width": 64, "layers": 3, "image_size": 56} | shape)


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def facebook(state: State) -> State:
    """The layout of facebookresearch's files."""
    names = {
        r"^embeddings\.(cls_token|mask_token|register_tokens)$": r"\1",
        r"^embeddings\.position_embeddings$": "pos_embed",
        r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
        r"^layernorm\.": "norm.",
        r"^encoder\.layer\.": "blocks.",
        r"attention\.output\.dense": "attn.proj",
        r"layer_scale([12])\.lambda1": r"ls\1.gamma",
        r"weights_in": "w12",
        r"weights_out": "w3",
    }
    found: State = {}
    for key, tensor in state.items():
        if ".attention.attention." in key and ".query." not in key:
            continue
        if ".query." in key:
            parts = [state[key.replace("query", part)] for part in ("query", "key", "value")]
            key, tensor = key.replace("attention.attention.query", "attn.qkv"), torch.cat(parts)
        for theirs, new in names.items():
            key = re.sub(theirs, new, key)
        found[key] = tensor
    return found


def timm(state: State) -> State:
    """timm's layout; with registers the class token holds its position."""
    found = {re.sub("mlp.w12", "mlp.fc1", re.sub("mlp.w3", "mlp.fc2", key)): one for key, one in facebook(state).items()}
    del found["mask_token"]
    if "register_tokens" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def transformers_model(state: State, registers: int, swiglu: bool) -> Any:
    transformers = pytest.importorskip("transformers")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    more = {"num_register_tokens": registers} if registers else {}
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "image_size": 56, "patch_size": 14}
    config = getattr(transformers, f"{kind}Config")(**sizes, use_swiglu_ffn=swiglu, **more)
    return getattr(transformers, f"{kind}Model").from_pretrained(None, config=config, state_dict=state).eval()


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [False, True])
def test_equals_transformers_at_any_size(registers: int, swiglu: bool) -> None:
    """Layer by layer, at the native size and at another."""
    state = tiny(registers=registers, swiglu=swiglu)
    ours, theirs = build_dinov2("x", state).eval(), transformers_model(state, registers, swiglu)
    assert (ours.registers, ours.activation, ours.depth) == (registers, "swiglu" if swiglu else "gelu", 3)
    for side in (56, 84):
        with torch.inference_mode():
            expected = theirs(pixel_values=pictures(side), output_hidden_states=True)
            for found, wanted in zip(ours.states(pictures(side)), expected.hidden_states, strict=True):
                torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
            found = ours.encode_image(pictures(side), (1, 3), normed=True)
        torch.testing.assert_close(found.image, expected.last_hidden_state[:, 0], rtol=0, atol=2e-5)
        torch.testing.assert_close(found.taps[3].patches, expected.last_hidden_state[:, 1 + registers :], rtol=0, atol=2e-5)
        assert found.taps[1].grid == (side // 14, side // 14)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [False, True])
def test_every_layout_is_the_same_tower(registers: int, swiglu: bool) -> None:
    state = tiny(registers=registers, swiglu=swiglu)
    modules = transformers_model(state, registers, swiglu).state_dict()  # names of transformers' modules, not of its files
    assert any("q_proj" in key for key in modules) or any("query" in key for key in modules)
    expected = build_dinov2("x", state).encode_image(pictures(84), (2,))
    for layout in (facebook(state), timm(state), modules, {f"dinov2.{key}": one for key, one in state.items()}):
        assert is_dinov2(layout)
        found = build_dinov2("x", layout).encode_image(pictures(84), (2,))
        torch.testing.assert_close(found.image, expected.image, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.taps[2].patches, expected.taps[2].patches, rtol=0, atol=1e-5)


def test_timm_s_own_modules() -> None:
    """The names of a model that timm builds, and its output."""
    create_model = pytest.importorskip("timm").create_model
    for name in ("vit_giant_patch14_reg4_dinov2", "vit_small_patch14_dinov2"):
        torch.manual_seed(0)
        theirs = create_model(name, depth=2, embed_dim=96, num_heads=2, img_size=56).eval()
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        ours = build_dinov2("x", theirs.state_dict(), heads=2)
        with torch.inference_mode():
            expected, found = theirs.forward_features(pictures(56)), ours.encode_image(pictures(56), (2,), normed=True)
        torch.testing.assert_close(found.image, expected[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.taps[2].patches, expected[:, 1 + ours.registers :], rtol=1e-4, atol=1e-4)


def test_taps() -> None:
    ours = build_dinov2("x", tiny())
    whole, short = ours.encode_image(pictures(56), (1, 2)), ours.encode_image(pictures(56), (1, 2), pooled=False)
    assert whole.taps.keys() == {1, 2}
    assert torch.equal(whole.taps[2].patches, short.taps[2].patches)
    assert torch.equal(short.image, short.taps[2].cls)  # type: ignore[arg-type]
    assert not torch.equal(short.image, whole.image)
    normed = ours.encode_image(pictures(56), (2,), normed=True).taps[2]
    assert torch.equal(normed.patches, ours.norm(whole.taps[2].patches))
    for wrong in (0, -1, 4):
        with pytest.raises(UsageError, match=r"must lie in 1\.\.3, the layers of x"):
            ours.encode_image(pictures(56), (wrong,))


@pytest.mark.parametrize("registers", [0, 4])
def test_saliency_is_the_attention_of_a_block(registers: int) -> None:
    ours = build_dinov2("x", tiny(registers=registers))
    with torch.inference_mode():
        found = ours.encode_image(pictures(56), saliency=2, pooled=False).streams[SALIENCY][2].patches[..., 0]
        before = list(ours.states(pictures(56)))[1]
        q, k, _ = ours.blocks[1].qkv(before)
        weights = (q @ k.transpose(-2, -1) / 8).softmax(-1)[:, 0]  # one head of 64 channels
    rows = weights[:, 1 : 1 + registers] if registers else weights[:, :1]
    torch.testing.assert_close(found, rows[..., 1 + registers :].mean(1))


def test_position_tables_by_every_rule() -> None:
    state = tiny()
    modes = {
        mode: build_dinov2("x", state, position_embedding=mode) for mode in ("bicubic", "bicubic_antialias", "bicubic_offset")
    }
    assert build_dinov2("x", state).position_embedding == "bicubic_antialias"
    assert build_dinov2("x", tiny(registers=0)).position_embedding == "bicubic"
    found = {mode: tower.resized_positions((6, 7)) for mode, tower in modes.items()}
    assert all(table.shape == (43, 64) for table in found.values())
    assert all(torch.equal(table[0], modes["bicubic"].positions[0]) for table in found.values())
    native = {mode: tower.resized_positions((4, 4)) for mode, tower in modes.items()}
    assert all(torch.equal(table, modes["bicubic"].positions) for table in native.values())
    pairs = [("bicubic", "bicubic_antialias"), ("bicubic", "bicubic_offset")]
    assert all((found[one] - found[other]).abs().max() > 1e-3 for one, other in pairs)
    square = modes["bicubic"].positions[1:].view(4, 4, 64).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(square, scale_factor=(6.1 / 4, 7.1 / 4), mode="bicubic")[0]
    torch.testing.assert_close(found["bicubic_offset"][1:], scaled.permute(1, 2, 0).reshape(42, 64))
    with pytest.raises(UnknownName, match="No position_embedding of x is called 'nearest'"):
        build_dinov2("x", state, position_embedding="nearest")


def test_a_file(tmp_path: Path) -> None:
    state = facebook(tiny())
    torch.save(state, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    save_file(tiny(), tmp_path / "model.safetensors")
    towers = [zsad.load_backbone(f"file:{path}", image_size=70) for path in sorted(tmp_path.iterdir())]
    assert [type(tower) for tower in towers] == [DINOv2, DINOv2]
    assert all(len(tower.weights_sha256) == 64 and tower.image_size == 70 for tower in towers)
    assert not any(parameter.requires_grad for parameter in towers[0].parameters())
    torch.testing.assert_close(*(tower.encode_image(pictures(70)).image for tower in towers), rtol=0, atol=1e-5)


def test_what_does_not_fit_is_named() -> None:
    state = tiny()
    with pytest.raises(CheckpointMismatch, match="blocks.0.mlp.c_proj.weight is missing"):
        build_dinov2("x", {key: one for key, one in state.items() if "weights_out" not in key})
    with pytest.raises(CheckpointMismatch, match="x does not fit: .*final_norm.bias"):
        build_dinov2("x", {key: one for key, one in state.items() if key != "layernorm.bias"})
    with pytest.raises(CheckpointMismatch, match="x does not fit: .*surprise"):
        build_dinov2("x", state | {"surprise": torch.zeros(1)})
    with pytest.raises(SizeMismatch, match="image_size=60 is no multiple of the patch size 14"):
        build_dinov2("x", state, image_size=60)
    with pytest.raises(UsageError, match="heads=3 does not fit the width 64"):
        build_dinov2("x", state, heads=3)
    assert not is_dinov2({"visual.proj": torch.zeros(1)})


def test_layer_scale_is_folded() -> None:
    """Of values that differ between channels, into weight and bias of the layer before it."""
    state = tiny()
    own = own_names(state)
    scale, prefix = state["encoder.layer.1.layer_scale1.lambda1"], "encoder.layer.1.attention.output.dense."
    assert torch.equal(own["blocks.1.attn.out_proj.weight"], scale[:, None] * state[prefix + "weight"])
    assert torch.equal(own["blocks.1.attn.out_proj.bias"], scale * state[prefix + "bias"])
    assert swiglu_width(1536) == 4096


# ------------------------------------------------------------------ the hub
def test_names() -> None:
    assert REPOSITORIES["dinov2-small"] == "facebook/dinov2-small"
    assert REPOSITORIES["dinov2-giant-registers"] == "facebook/dinov2-with-registers-giant"
    assert set(REPOSITORIES) | {"timm:"} <= set(zsad.list_backbones())
    assert len(REPOSITORIES) == 8


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("dinov2-base-registers", "facebook/dinov2-with-registers-base"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "timm/vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_a_download_is_announced(
    name: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tiny(), path)
    size = type("Metadata", (), {"size": 346_000_000})()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: size)
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *what: asked.append(what) or str(path))
    tower = zsad.load_backbone(name, image_size=70)
    assert f"Downloading the weights of {name}: 346 MB from {repository} to " in caplog.text
    assert asked == [(repository, "model.safetensors")]
    assert (tower.name, tower.image_size, tower.depth) == (name, 70, 3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match=f"The weights of {re.escape(name)} are not in the cache"):
        zsad.load_backbone(name)


def test_unknown_models_of_timm() -> None:
    with pytest.raises(UnknownName, match=r"No DINOv2 of timm is called 'vit_tiny_dinov2'\. Did you mean"):
        zsad.load_backbone("timm:vit_tiny_dinov2")
