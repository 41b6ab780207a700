"""``zsad convert``: authors' files become safetensors that say what they are, and load back to the same tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.cli.convert import convert_checkpoint
from zsad.errors import CheckpointMismatch, UsageError
from zsad.weights.checkpoints import git_blob_of, published, read_header, write_learned

ABOUT = {"trained_on": "VisA", "licence": "MIT"}


def authors_prompts(path: Path, width: int = 64, context: int = 5, deep: int = 3, length: int = 2) -> Path:
    """AnomalyCLIP's layout, in sizes that no paper has."""
    generator = torch.Generator().manual_seed(3)
    state = {f"ctx_{side}": torch.randn(1, 1, context, width, generator=generator) for side in ("pos", "neg")}
    for index in range(deep - 1):
        state[f"compound_prompts_text.{index}"] = torch.randn(length, width, generator=generator)
        state[f"compound_prompt_projections.{index}.weight"] = torch.zeros(8, width)
        state[f"compound_prompt_projections.{index}.bias"] = torch.zeros(8)
    torch.save({"prompt_learner": state}, path)
    return path


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is nothing at '.*nope.pth'. Give the authors' file."):
        convert_checkpoint(tmp_path / "nope.pth", "anomalyclip", tmp_path / "new.safetensors")


def test_round_trip_with_the_sizes_of_the_file(tmp_path: Path) -> None:
    source = authors_prompts(tmp_path / "prompts.pth")
    backbone = zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bilinear")
    direct = zsad.create("anomalyclip", backbone=backbone, checkpoint=source)
    assert (direct.context, direct.deep, direct.deep_length) == (5, 3, 2)
    header = convert_checkpoint(source, "anomalyclip", tmp_path / "new.safetensors", backbone="tiny", **ABOUT)
    assert header["arguments"] | {"context": 5, "deep": 3, "deep_length": 2} == header["arguments"]
    assert header["compared"] is True
    stored = read_header(tmp_path / "new.safetensors")
    assert (stored["method"], stored["trained_on"], stored["licence"]) == ("anomalyclip", "VisA", "MIT")
    assert stored["backbone"]["position_embedding"] == "bilinear"
    again = zsad.create("anomalyclip", backbone=backbone, checkpoint=tmp_path / "new.safetensors")
    for key, tensor in direct.learned_state().items():
        assert torch.equal(again.learned_state()[key], tensor)
    with pytest.raises(CheckpointMismatch, match="does not fit anomalyclip"):
        zsad.create("anomalyclip", backbone=backbone, checkpoint=tmp_path / "new.safetensors", context=7)


def test_a_stored_keyword_holds_unless_another_is_given(tmp_path: Path) -> None:
    source = authors_prompts(tmp_path / "prompts.pth")
    convert_checkpoint(source, "anomalyclip", tmp_path / "n.safetensors", backbone="tiny", arguments={"sigma": 2.5}, **ABOUT)
    backbone = zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bilinear")
    assert zsad.create("anomalyclip", backbone=backbone, checkpoint=tmp_path / "n.safetensors").sigma == 2.5
    assert zsad.create("anomalyclip", backbone=backbone, checkpoint=tmp_path / "n.safetensors", sigma=1.0).sigma == 1.0


def test_another_position_embedding_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = authors_prompts(tmp_path / "prompts.pth")
    convert_checkpoint(source, "anomalyclip", tmp_path / "n.safetensors", backbone="tiny", **ABOUT)
    backbone = zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bicubic")
    zsad.create("anomalyclip", backbone=backbone, checkpoint=tmp_path / "n.safetensors")
    assert "learned with position_embedding='bilinear'; this backbone has 'bicubic'" in caplog.text


def test_a_header_may_not_name_a_path(tmp_path: Path) -> None:
    backbone = zsad.load_backbone("tiny", activation="gelu", position_embedding="bicubic")
    detector = zsad.create("adaclip", backbone=backbone)
    header = {"method": "adaclip", "arguments": detector.arguments() | {"prompts": "/etc/passwd", "taps": None}}
    write_learned(tmp_path / "evil.safetensors", detector.learned_state(), header)
    with pytest.raises(CheckpointMismatch, match="asks for the path '/etc/passwd' as prompts; pass prompts="):
        zsad.create("adaclip", backbone=backbone, checkpoint=tmp_path / "evil.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "winclip"}, "winclip has no learned weights"),
        ({"out": "new.pth"}, "give it the ending .safetensors"),
        ({"trained_on": None}, "say what it learned from"),
        ({"licence": None}, "none of the published files"),
    ],
)
def test_refusals(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"method": "anomalyclip", "out": "new.safetensors"} | ABOUT | change
    source = authors_prompts(tmp_path / "prompts.pth")
    with pytest.raises(UsageError, match=message):
        convert_checkpoint(source, given.pop("method"), tmp_path / given.pop("out"), backbone="tiny", **given)


def test_an_existing_file_stays(tmp_path: Path) -> None:
    source = authors_prompts(tmp_path / "prompts.pth")
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        convert_checkpoint(source, "anomalyclip", tmp_path / "there.safetensors", backbone="tiny", **ABOUT)
    assert (tmp_path / "there.safetensors").read_text() == "mine"


def test_gits_digest(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert git_blob_of(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's digest of an empty file
    assert published(tmp_path / "empty") is None


def test_published_files_are_recognised(root: Path, tmp_path: Path) -> None:
    """Without CLIP's weights: names and shapes are compared on a tower of shapes alone."""
    source = root.parent / "shared" / "checkpoints" / "crane_mvtec_epoch5.pth"
    if not source.is_file():
        pytest.skip("the published prompt files are not beside this checkout")
    words = ["convert", str(source), "--method", "anomalyclip", "--out", str(tmp_path / "c.safetensors")]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "Crane's layout" in refused.output
    done = CliRunner().invoke(app, [*words, "--set", "crane_layout=True", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["trained_on"] == "MVTec AD, test split (CC BY-NC-SA 4.0)"
    assert said["backbone"]["name"] == "ViT-L-14-336.openai"
    assert said["arguments"]["crane_layout"] is True
