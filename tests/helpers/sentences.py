"""Sentences that a frozen text tower encodes once in a test session, for tests that prepare the same ensembles again.

``from sentences import encoded_once`` makes it hold for the tests of a file, or, in a conftest.py, of a folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from zsad.backbones.clip import CLIP

_KEPT: dict[tuple[object, ...], Tensor] = {}


def _weights(tower: CLIP) -> str:
    """Tells text towers apart: by the tensors before and behind the blocks, which are drawn anew with every seed."""
    digest = hashlib.sha256()
    for tensor in (tower.positional_embedding, tower.ln_final.weight, tower.text_projection, tower.token_embedding.weight[:64]):
        digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(autouse=True)
def encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """``CLIP.encode_text`` runs once per tower and list of sentences; with a gradient it always runs."""
    encode = CLIP.encode_text

    def once(self: CLIP, sentences: Sequence[str], batch_size: int = 64) -> Tensor:
        key = (_weights(self), tuple(sentences), batch_size, self.text_projection.dtype, torch.is_inference_mode_enabled())
        if key not in _KEPT:
            found = encode(self, sentences, batch_size)
            if found.requires_grad or torch.is_autocast_enabled(found.device.type):
                return found
            _KEPT[key] = found
        return _KEPT[key].clone()

    monkeypatch.setattr(CLIP, "encode_text", once)
