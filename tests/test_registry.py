"""Names, arguments, checkpoints and assets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zsad
from zsad.detector import Detector
from zsad.errors import CheckpointMismatch, MissingExtra, NotTrained, SourceNotFound, UnknownName, UsageError
from zsad.types import Recipe
from zsad.weights.checkpoints import load_index, read_header, read_state_dict, sha256_of, write_learned


class Learner(Detector):
    """Has one learned tensor and must be trained before it scores."""

    recipe = Recipe("tiny", 80, activation="quick_gelu")
    learned = True

    def __init__(self, backbone: Any, width: int = 3) -> None:
        super().__init__(backbone)
        self.width = width
        self.weight = nn.Parameter(torch.randn(width))


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(zsad.registry._methods, "learner", Learner)
    monkeypatch.setattr(Learner, "name", "learner", raising=False)
    return "learner"


def test_public_list_is_pinned() -> None:
    assert zsad.__all__ == sorted(zsad.__all__)
    assert set(zsad.__all__) >= {
        "Detector",
        "Inspector",
        "References",
        "create",
        "list_backbones",
        "list_methods",
        "load_backbone",
    }
    assert all(hasattr(zsad, name) for name in zsad.__all__)


def test_lists() -> None:
    assert {"compact", "winclip"} <= set(zsad.list_methods())
    assert {"compact", "file:", "hf:", "openclip:", "tiny"} <= set(zsad.list_backbones())


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="No method is called 'winclp'.*Did you mean 'winclip'"):
        zsad.create("winclp")
    with pytest.raises(UnknownName, match="'scale'.*Did you mean 'scales'"):
        zsad.create("winclip", backbone="tiny", scale=(2,))
    with pytest.raises(UsageError, match="has no learned weights"):
        zsad.create("winclip", backbone="tiny", checkpoint="x.pth")


@pytest.mark.parametrize(
    ("key", "value"), [("scales", 2), ("scales", ("a",)), ("temperature", "abc"), ("temperature", True), ("prompts", 5)]
)
def test_arguments_of_another_kind_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{key} of winclip takes .*; got "):
        zsad.create("winclip", backbone="tiny", **{key: value})


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0,)}, {"temperature": 0}])
def test_ranges_are_checked_before_scoring(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give scales from 1 on"):
        zsad.create("winclip", backbone="tiny", **wrong).prepare("nut")


def test_a_backbone_must_have_what_the_method_needs() -> None:
    with pytest.raises(UsageError, match="winclip cannot run on the backbone 'compact', which has no visual, encode_text"):
        zsad.create("winclip", backbone=zsad.load_backbone("compact"))
    with pytest.raises(UsageError, match="compact cannot run on the backbone 'tiny', which has no stages"):
        zsad.create("compact", backbone="tiny")


def test_weights_that_say_their_activation_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """WinCLIP on OpenAI's weights runs QuickGELU; a state dict on disk gets the recipe's GELU."""
    asked: dict[str, Any] = {}

    def loader(name: str, **options: Any) -> Any:
        asked[name] = options["activation"]
        return zsad.load_backbone("tiny")

    monkeypatch.setitem(zsad.registry._backbones, "openclip:", loader)
    monkeypatch.setitem(zsad.registry._backbones, "file:", loader)
    for name in ("ViT-B-16.openai", "file:weights.pt"):
        zsad.create("winclip", backbone=name)
    assert asked == {"ViT-B-16.openai": None, "file:weights.pt": "gelu"}


def test_a_name_is_registered_once() -> None:
    with pytest.raises(UsageError, match="is taken by"):
        zsad.registry.register("winclip")(Learner)
    with pytest.raises(UsageError, match="is taken"):
        zsad.registry.register_backbone("tiny")(print)


def test_a_string_backbone_follows_the_recipe(learner: str) -> None:
    backbone = zsad.create(learner, backbone="tiny").backbone
    assert (backbone.activation, backbone.image_size) == ("quick_gelu", 80)


def test_a_built_backbone_is_compared(learner: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        zsad.create(learner, backbone=zsad.load_backbone("tiny"))
    assert "learner was published with activation='quick_gelu'; the given backbone has 'gelu'" in caplog.text


def test_creating_leaves_random_numbers_alone(learner: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    zsad.create(learner)
    assert torch.equal(torch.rand(3), expected)


def test_untrained_methods_do_not_score(learner: str, tmp_path: Path) -> None:
    detector = zsad.create(learner)
    with pytest.raises(NotTrained, match=r"no learned weights yet.*checkpoint='path/to/file'"):
        detector.require_trained()
    detector.save(tmp_path / "w.safetensors", trained_on="nothing")
    loaded = zsad.create(learner, checkpoint=tmp_path / "w.safetensors")
    loaded.require_trained()
    assert torch.equal(loaded.weight, detector.weight)
    assert loaded.weights_sha256 == sha256_of(tmp_path / "w.safetensors")
    header = read_header(tmp_path / "w.safetensors")
    assert (header["method"], header["arguments"], header["trained_on"]) == ("learner", {"width": 3}, "nothing")
    assert header["backbone"]["name"] == "tiny"
    assert not list(tmp_path.glob("*.partial"))


def test_wrong_checkpoints_are_named(learner: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_learned(path, {"weight": torch.zeros(3)}, {"method": "other"})
    with pytest.raises(CheckpointMismatch, match="was saved by 'other', not by 'learner'"):
        zsad.create(learner, checkpoint=path)
    write_learned(path, {"wieght": torch.zeros(3)}, {"method": "learner"})
    with pytest.raises(CheckpointMismatch, match="missing: weight; unexpected: wieght"):
        zsad.create(learner, checkpoint=path)
    write_learned(path, {"weight": torch.zeros(4)}, {"method": "learner"})
    with pytest.raises(CheckpointMismatch, match=r"weight is \(4,\) instead of \(3,\)"):
        zsad.create(learner, checkpoint=path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointMismatch, match="is empty, no file of weights"):
        zsad.create(learner, checkpoint=path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointMismatch, match="holds a list; a state dict"):
        read_state_dict(path)


def test_tags_come_from_the_index(learner: str) -> None:
    with pytest.raises(UnknownName, match=r"No checkpoint is called 'learner\.visa'"):
        zsad.create("learner.visa")


def test_index_is_sound(root: Path) -> None:
    for name, entry in load_index().items():
        assert name == entry.name
        assert entry.licence
        assert entry.trained_on
        if entry.file:
            path = root / "checkpoints" / entry.file
            assert (path.stat().st_size, sha256_of(path)) == (entry.size, entry.sha256)
        else:
            assert entry.source


def test_missing_files_and_extras() -> None:
    with pytest.raises(SourceNotFound, match="no file of weights at"):
        read_state_dict("absent.pth")
    assert "pip install 'zsad[words]'" in str(MissingExtra("Other defect words", "words"))
    assert issubclass(MissingExtra, ImportError)
