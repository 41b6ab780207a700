"""Where backbones come from: open_clip names, files, Hugging Face folders, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zsad
from zsad.backbones import openclip
from zsad.errors import (
    CheckpointMismatch,
    SourceNotFound,
    UnknownName,
    UnsafeCheckpoint,
    UnsupportedBackbone,
    UsageError,
    WeightsUnavailable,
)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.load_backbone("tiny")


def images(size: int = 80) -> torch.Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ file:
@pytest.mark.parametrize("layout", ["plain", "wrapped", "safetensors", "half"])
def test_file_loads_any_layout(tiny: Any, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "weights.pt"
    state = dict(tiny.state_dict())
    if layout == "safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    elif layout == "wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
    elif layout == "half":
        extra = {"input_resolution": torch.tensor(80), "context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)}
        torch.save({key: tensor.half() for key, tensor in state.items()} | extra, path)
    else:
        torch.save(state, path)
    loaded = zsad.load_backbone(f"file:{path}", activation="gelu")
    tolerance = 2e-2 if layout == "half" else 1e-6
    torch.testing.assert_close(loaded.encode_image(images()).image, tiny.encode_image(images()).image, rtol=0, atol=tolerance)
    torch.testing.assert_close(loaded.encode_text(["a nut"]), tiny.encode_text(["a nut"]), rtol=0, atol=tolerance)
    assert len(loaded.weights_sha256) == 64
    assert not any(p.requires_grad for p in loaded.parameters())


def test_file_torchscript_archive_like_openai_publishes(tiny: Any, tmp_path: Path) -> None:
    holder = torch.nn.Module()
    for key, tensor in tiny.state_dict().items():
        *folders, name = key.split(".")
        module = holder
        for folder in folders:
            if not hasattr(module, folder):
                module.add_module(folder, torch.nn.Module())
            module = getattr(module, folder)
        module.register_parameter(name, torch.nn.Parameter(tensor.clone()))
    path = tmp_path / "archive.pt"
    with pytest.warns():  # torch says that TorchScript is on its way out
        torch.jit.script(holder).save(str(path))
    loaded = zsad.load_backbone(f"file:{path}", activation="gelu")
    torch.testing.assert_close(loaded.encode_image(images()).image, tiny.encode_image(images()).image, rtol=0, atol=1e-6)


def test_file_activation_and_heads_change_the_output(tiny: Any, tmp_path: Path) -> None:
    torch.save(tiny.state_dict(), tmp_path / "w.pt")
    reference = tiny.encode_image(images()).image
    for options in ({"activation": "quick_gelu"}, {"activation": "gelu", "heads": 2}):
        other = zsad.load_backbone(f"file:{tmp_path / 'w.pt'}", **options)
        assert not torch.allclose(other.encode_image(images()).image, reference, atol=1e-4)


def test_file_refusals(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(tiny.state_dict(), path)
    with pytest.raises(UsageError, match="does not say its activation"):
        zsad.load_backbone(f"file:{path}")
    with pytest.raises(UsageError, match="does not divide the width"):
        zsad.load_backbone(f"file:{path}", activation="gelu", heads=5)
    with pytest.raises(UnknownName, match="'head'.*Did you mean 'heads'"):
        zsad.load_backbone(f"file:{path}", activation="gelu", head=5)
    with pytest.raises(SourceNotFound, match="no file of weights"):
        zsad.load_backbone(f"file:{tmp_path / 'absent.pt'}", activation="gelu")
    torch.save({"layer.weight": torch.zeros(2)}, path)
    with pytest.raises(UnsupportedBackbone, match=r"visual\.conv1\.weight.*missing, it starts with layer\.weight"):
        zsad.load_backbone(f"file:{path}", activation="gelu")
    state = dict(tiny.state_dict())
    state["visual.surplus"] = torch.zeros(2)
    torch.save(state, path)
    with pytest.raises(CheckpointMismatch, match=r"visual\.surplus"):
        zsad.load_backbone(f"file:{path}", activation="gelu")
    path.write_bytes(b"not weights at all")
    with pytest.raises((CheckpointMismatch, UnsafeCheckpoint)):
        zsad.load_backbone(f"file:{path}", activation="gelu")


def test_odd_width_asks_for_heads(tmp_path: Path) -> None:
    state = {
        "visual.conv1.weight": torch.zeros(1280, 3, 14, 14),
        "visual.positional_embedding": torch.zeros(257, 1280),
        "visual.proj": torch.zeros(1280, 8),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": torch.zeros(8, 1280),
        "transformer.resblocks.0.mlp.c_fc.weight": torch.zeros(8, 64),
        "token_embedding.weight": torch.zeros(49408, 64),
        "positional_embedding": torch.zeros(77, 64),
        "ln_final.weight": torch.zeros(64),
        "text_projection": torch.zeros(64, 8),
    }
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"width of 1280 .*have 16\): pass heads="):
        zsad.load_backbone(f"file:{tmp_path / 'w.pt'}", activation="gelu")


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pwned"),))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (lambda f: pickle.dump({"x": Payload()}, f), lambda f: torch.save({"x": Payload()}, f)):
        with (tmp_path / "evil.pt").open("wb") as file:
            write(file)
        with pytest.raises(UnsafeCheckpoint, match="could run code, so it was not loaded"):
            zsad.load_backbone(f"file:{tmp_path / 'evil.pt'}", activation="gelu")
    assert not (tmp_path / "pwned").exists()


# ------------------------------------------------------------------ open_clip names
def test_plain_models_are_listed() -> None:
    names = openclip.plain_models()
    assert {"ViT-B-16-plus-240.laion400m_e32", "ViT-L-14-336.openai", "ViT-H-14.laion2b_s32b_b79k"} <= set(names)
    assert not any(word in name for name in names for word in ("SigLIP", "RN50", "convnext", "coca", "CLIPA", "EVA", "roberta"))


@pytest.mark.parametrize(
    "name", ["RN50.openai", "ViT-B-16-SigLIP.webli", "ViT-L-14-CLIPA.datacomp1b", "coca_ViT-B-32.laion2b_s13b_b90k"]
)
def test_other_towers_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedBackbone, match=r"no plain CLIP ViT.*Covered: ViT-B-16, .*ViT-L-14-336"):
        zsad.load_backbone(name)


@pytest.mark.slow
def test_unknown_names_get_a_guess() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'ViT-L-14-336'"):
        zsad.load_backbone("ViT-L-14-366.openai")
    with pytest.raises(UnknownName, match="Did you mean 'openai'"):
        zsad.load_backbone("ViT-L-14-336.openia")
    with pytest.raises(UnknownName, match="No backbone is called 'tinny'.*Did you mean 'tiny'"):
        zsad.load_backbone("tinny")


@pytest.mark.slow
def test_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match=r"HF_HUB_OFFLINE is set.*bring the files from another machine"):
        zsad.load_backbone("ViT-B-32.laion2b_s34b_b79k")


def metadata(url: str, **_: Any) -> Any:
    """What a stand-in hub answers: the first name of the weights' file is missing, the second is there."""
    from huggingface_hub.utils import EntryNotFoundError

    if not url.endswith(".bin"):
        raise EntryNotFoundError.__new__(EntryNotFoundError)
    return type("Metadata", (), {"size": 123_000_000})()


@pytest.mark.slow
def test_the_download_is_announced_and_the_cache_honoured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Downloaded and announced from a stand-in hub; then the cache has it, and nothing is logged."""
    torch.manual_seed(0)
    weights = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(openclip.build("x", "ViT-S-32").state_dict(), weights)
    name = "ViT-S-32.fake"
    monkeypatch.setattr(
        "open_clip.pretrained.get_pretrained_cfg", lambda *_: {"hf_hub": "org/fake/", "mean": (0.5,) * 3, "quick_gelu": True}
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", metadata)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda _: str(weights))
    model = zsad.load_backbone(name)
    assert "123 MB from org/fake to " in caplog.text
    assert (model.activation, model.preprocess.mean) == ("quick_gelu", (0.5, 0.5, 0.5))
    caplog.clear()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(weights))
    again = zsad.load_backbone(name)
    assert caplog.text == ""
    assert again.weights_sha256 == model.weights_sha256


def test_no_network_is_found_out_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    with pytest.raises(WeightsUnavailable, match=r"could not be reached: no route.*needs no download"):
        zsad.load_backbone("hf:org/nothing-here")


# ------------------------------------------------------------------ Hugging Face
@pytest.mark.slow
def test_hf_clip_equals_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tower = {"intermediate_size": 128, "num_hidden_layers": 3}
    config = transformers.CLIPConfig(
        text_config=tower | {"hidden_size": 64, "num_attention_heads": 2, "vocab_size": 49408},
        vision_config=tower | {"hidden_size": 96, "num_attention_heads": 3, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = zsad.load_backbone(f"hf:{tmp_path}")
    pixels = images(32)
    with torch.inference_mode():
        vision = theirs.vision_model(pixel_values=pixels, output_hidden_states=True)
        found = ours.encode_image(pixels, (2,))
        torch.testing.assert_close(found.image, theirs.visual_projection(vision.pooler_output), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.taps[2].patches, vision.hidden_states[2][:, 1:], rtol=0, atol=1e-5)
        ids = ours.tokenize(["a broken bolt"])
        mask = (torch.arange(77)[None] <= ids.argmax(1)[:, None]).long()
        hidden = theirs.text_model(input_ids=ids, attention_mask=mask).last_hidden_state[0, ids.argmax()]
        torch.testing.assert_close(ours.encode_text(["a broken bolt"])[0], theirs.text_projection(hidden), rtol=0, atol=1e-5)
    assert ours.activation == config.vision_config.hidden_act
    assert len(ours.weights_sha256) == 64


@pytest.mark.parametrize("registers", [0, 4])
def test_hf_dinov2(tmp_path: Path, registers: int) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers)
        theirs = transformers.Dinov2WithRegistersModel(config).eval()
    else:
        theirs = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    theirs.save_pretrained(tmp_path)
    ours = zsad.load_backbone(f"hf:{tmp_path}", image_size=42)
    with torch.inference_mode():
        found = ours.encode_image(images(42), (1, 3))
        states = theirs(pixel_values=images(42), output_hidden_states=True)
        normed = theirs.layernorm(found.taps[3].cls)
    assert (found.taps[3].grid, found.taps[3].patches.shape) == ((6, 6), (1, 36, 48))
    torch.testing.assert_close(found.taps[1].patches, states.hidden_states[1][:, 1 + registers :])
    torch.testing.assert_close(found.image, normed)


def test_hf_refuses_other_models(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedBackbone, match="'bert' model; hf: covers CLIP and DINOv2"):
        zsad.load_backbone(f"hf:{tmp_path}")
    with pytest.raises(WeightsUnavailable, match="a folder that save_pretrained wrote"):
        zsad.load_backbone(f"hf:{tmp_path.parent}")
