"""Float32 on a card is float32, in inference alone."""

from __future__ import annotations

import pytest
import torch

from zsad.common.precision import inference


def test_convolutions_on_a_card_are_not_rounded_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with inference(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.is_inference_mode_enabled()
    assert torch.backends.cudnn.allow_tf32
    assert not torch.is_inference_mode_enabled()


def test_elsewhere_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with inference(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32
        assert torch.is_inference_mode_enabled()
