"""BiomedCLIP's layout: weights that open_clip itself makes are loaded, and both towers give what open_clip's give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zsad
from zsad.backbones.bert_clip import BertCLIP
from zsad.errors import CheckpointMismatch, UnsafeCheckpoint, UnsupportedBackbone, UsageError, WeightsUnavailable

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "lesion",
    "tumor",
    "##s",
    "normal",
    "healthy",
    "a",
    ",",
    "clear",
    "photo",
    "of",
    "no",
)
BERT = "some/bert"
SENTENCES = ["Lesion,  TUMORS", "a photo of normal, healthy", "clear"]
CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": BERT,
            "hf_tokenizer_name": BERT,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 16,
        },
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the published repository, and open_clip's model that its weights are of."""
    import transformers  # here and below: as open_clip it takes seconds, and each process of the tests collects this file

    folder = tmp_path_factory.mktemp("biomed")
    text = folder / BERT
    text.mkdir(parents=True)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, **sizes)
    bert.save_pretrained(text)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    model = make(folder)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def make(folder: Path) -> Any:
    """open_clip's own model."""
    import open_clip

    config = CONFIG["model_cfg"]
    text = config["text_cfg"] | {"hf_model_name": str(folder / BERT), "hf_model_pretrained": False}
    torch.manual_seed(3)
    model = open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], text)
    for parameter in model.parameters():  # biases and norms are zeros and ones otherwise
        torch.nn.init.normal_(parameter, std=0.05) if parameter.dim() < 2 else None
    torch.nn.init.normal_(model.visual.trunk.pos_embed, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def loaded(repository: Path) -> BertCLIP:
    return zsad.load_backbone(f"hf:{repository}")


@pytest.mark.slow
@torch.inference_mode()
def test_both_towers_equal_open_clips(repository: Path, loaded: BertCLIP) -> None:
    import transformers

    model = make(repository)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.encode_image(images).image, model.encode_image(images), rtol=0, atol=2e-6)
    torch.testing.assert_close(loaded.encode_class(images), model.encode_image(images), rtol=0, atol=2e-6)
    states = model.visual.trunk.forward_intermediates(images, indices=[7], output_fmt="NLC", intermediates_only=True)
    tap = loaded.encode_image(images, [8]).taps[8]
    torch.testing.assert_close(tap.patches, states[0], rtol=0, atol=2e-5)
    tokenizer = transformers.BertTokenizerFast(str(repository / "vocab.txt"), do_lower_case=True)
    ids = tokenizer(SENTENCES, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
    assert loaded.tokenize(SENTENCES).tolist() == ids[:, : loaded.tokenize(SENTENCES).shape[1]].tolist()
    torch.testing.assert_close(loaded.encode_text(SENTENCES), model.encode_text(ids), rtol=0, atol=2e-6)
    one_by_one = torch.cat([loaded.encode_text([sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(loaded.encode_text(SENTENCES, batch_size=2), one_by_one, rtol=0, atol=2e-6)
    assert loaded.preprocess.mean == (0.4, 0.5, 0.6)
    assert len(loaded.weights_sha256) == 64
    assert loaded.unknown_pieces("lesion xyz") == [1]
    with pytest.raises(UsageError, match="has 22 tokens; .* reads 16"):
        loaded.tokenize(["a " * 20])


@pytest.mark.slow
@torch.inference_mode()
def test_other_sizes_resize_positions_as_timm_does(repository: Path) -> None:
    model = make(repository)
    model.visual.trunk.set_input_size((160, 160))
    images = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    smaller = zsad.load_backbone(f"hf:{repository}", image_size=160)
    torch.testing.assert_close(smaller.encode_image(images).image, model.encode_image(images), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_clap_runs_on_it_and_learned_prompts_do_not(loaded: BertCLIP) -> None:
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    clap = zsad.create("clap", backbone=loaded, words=("tumors",), normal_words=("normal",), steps=2, copies=2)
    found = clap(images, clap.prepare())
    assert found.anomaly_map.shape == (1, 224, 224)
    assert found.anomaly_map.std() > 0
    with pytest.raises(UsageError, match="has no token_embedding"):
        zsad.create("anomalyclip", backbone=loaded)


def changed(repository: Path, place: Path, **parts: dict[str, Any]) -> str:
    folder = Path(shutil.copytree(repository, place))
    config = json.loads(json.dumps(CONFIG))
    for part, values in parts.items():
        config["model_cfg"][part] |= values
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"hf:{folder}"


def test_what_is_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for number, (parts, message) in enumerate(
        [
            ({"vision_cfg": {"timm_model_name": "resnet50"}}, "The image tower of .* is resnet50; .*BiomedCLIP"),
            ({"vision_cfg": {"timm_pool": "avg"}}, "hf: covers timm's plain ViT"),
            ({"text_cfg": {"hf_pooler_type": "mean_pooler"}}, "with mean_pooler; of open_clip's repositories hf: covers a "),
        ]
    ):
        with pytest.raises(UnsupportedBackbone, match=message):
            zsad.load_backbone(changed(repository, tmp_path / str(number), **parts))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for number, elsewhere in enumerate((str(tmp_path), "../..", "..")):
        name = changed(repository, tmp_path / f"out{number}", text_cfg={"hf_model_name": elsewhere})
        with pytest.raises(UnsupportedBackbone, match="which is no repository and does not lie below it"):
            zsad.load_backbone(name)
    name = changed(repository, tmp_path / "linear", text_cfg={"hf_proj_type": "linear"})
    with pytest.raises(CheckpointMismatch, match="does not fit its configuration: .*head"):
        zsad.load_backbone(name)
    folder = Path(name.removeprefix("hf:"))
    (folder / BERT / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(UnsupportedBackbone, match="is a 'roberta'; hf: covers BERT"):
        zsad.load_backbone(name)
    shutil.rmtree(folder / BERT)
    with pytest.raises(WeightsUnavailable, match=f"or put its config.json to {folder}/{BERT}/config.json"):
        zsad.load_backbone(name)
    shutil.copytree(repository / BERT, folder / BERT)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises((UnsafeCheckpoint, CheckpointMismatch)):
        zsad.load_backbone(name)
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(WeightsUnavailable, match="has no open_clip_model.safetensors or open_clip_pytorch_model.bin"):
        zsad.load_backbone(name)


def test_safetensors_and_the_published_name(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the hub come by announced downloads, here from a folder."""
    folder = Path(changed(repository, tmp_path / "one").removeprefix("hf:"))
    state = torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True)
    (folder / "open_clip_pytorch_model.bin").unlink()
    save_file({key: tensor.half().contiguous() for key, tensor in state.items()}, folder / "open_clip_model.safetensors")
    announced = list[str]()

    def place_of(source: str) -> Path:
        return folder / BERT if source == BERT else folder

    def announce(name: str, source: str, filenames: list[str]) -> None:
        if not (place_of(source) / filenames[0]).is_file():
            raise WeightsUnavailable("none")
        announced.append(filenames[0])

    monkeypatch.setattr("zsad.backbones.openclip_hub.cached_file", lambda *_: None)
    monkeypatch.setattr("zsad.backbones.openclip_hub.announce_download", announce)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda source, file: str(folder / (BERT if source == BERT else "") / file)
    )
    found = zsad.load_backbone("hf:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224")
    assert isinstance(found, BertCLIP)
    assert announced == ["open_clip_config.json", "config.json", "vocab.txt", "open_clip_model.safetensors"]
