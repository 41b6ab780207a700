"""Sentences that begin alike are computed together, and each has the vector that it has alone."""

from __future__ import annotations

import torch

from zsad.backbones.shared_prefixes import Prefixes
from zsad.backbones.tiny import load_tiny

LINES = [
    "a photo of a nut.",
    "a photo of a nut",
    "a photo of a damaged nut.",
    "",
    "a photo of a nut.",
    "nut",
    "a flawless old nut",
]


def test_a_sentence_has_the_vector_that_it_has_alone() -> None:
    model = load_tiny("tiny", layers=3)
    ids = model.tokenize(LINES)
    alone = torch.cat([model.encode_embeddings(model.token_embedding(row[None]), row.argmax()[None]) for row in ids])
    for batch_size in (1, 3, 128):
        torch.testing.assert_close(model.encode_text(LINES, batch_size), alone, atol=2e-6, rtol=0)
    wanted = torch.autograd.grad(alone.square().sum(), model.token_embedding.weight)[0]
    found = torch.autograd.grad(model.encode_text(LINES).square().sum(), model.token_embedding.weight)[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_each_beginning_is_there_once() -> None:
    found = Prefixes.of([[9, 1, 2, 8], [9, 1, 8], [9, 1, 2, 8], [9, 8]], torch.device("cpu"))
    assert found.tokens.tolist() == [9, 1, 2, 8, 8, 8]
    assert found.places.tolist() == [0, 1, 2, 3, 2, 1]
    assert found.rows.tolist() == [[0, 1, 2, 3], [0, 1, 4, 4], [0, 1, 2, 3], [0, 5, 5, 5]]
    assert found.first.tolist() == [0, 1, 2, 3, 6, 13]
    assert found.ends.tolist() == [3, 2, 3, 1]
