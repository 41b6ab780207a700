"""A model of a folder: a tiny random one of transformers is asked, and what is none is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_vlm import write_tiny_vlm

from zsad.errors import UsageError, WeightsError
from zsad.explain.asking import Asker
from zsad.explain.local import LocalModel
from zsad.explain.pictures import Case, Seen
from zsad.explain.question import Question


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def test_a_local_model_is_asked_with_its_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalModel, "most_tokens", 6)
    model = LocalModel(folder)
    white, black = (Image.new("RGB", (20, 20), colour) for colour in ("white", "black"))
    question = "Picture of the defect"
    answers = [model(Question(question, pictures, {})) for pictures in ((white,), (white, black), (white,))]
    assert answers[0] == answers[2]
    assert all(isinstance(answer, str) for answer in answers)
    assert model.name.startswith(folder.name)
    pixels = np.full((24, 24, 3), 9, dtype=np.uint8)
    found = Asker(model, "brick")(Case("a", (24, 24), "a", True, (), (0.0, 1.0), lambda: Seen(pixels)))
    assert found["error"] is None
    assert found["text"] is not None  # random words are of no form
    assert found["model"] == model.name


def test_what_is_no_model_that_sees(folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with pytest.raises(UsageError, match="is no folder with a model"):
        LocalModel(tmp_path / "nothing")
    text = tmp_path / "text"
    small = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(small).save_pretrained(text)
    with pytest.raises(UsageError, match="llama\\) takes no pictures"):
        LocalModel(text)
    with pytest.raises(UsageError, match="has no chat template"):
        LocalModel(write_tiny_vlm(tmp_path / "silent", template=False))
    torn = write_tiny_vlm(tmp_path / "torn")
    (torn / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        LocalModel(torn)
