"""A linear layer that is learned on the patches of one picture while it is scored (AnoCLIP's test-time adaptation)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.similarity import text_logits
from zsad.alignment.tiles import join_grids

__all__ = ["TokenAdapter", "first_weights"]

NOISE = 0.055  # deviation of what is added to the patches that are to look anomalous


def first_weights(outputs: int, patches: Tensor, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weight (outputs, D) and bias (outputs,) as ``nn.Linear`` draws them, and noise (steps, n, L, D), from one seed.

    Drawn on the CPU, so that every device has the same; the global generator is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = patches.shape[-1] ** -0.5
    weight = torch.empty(outputs, patches.shape[-1]).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
    noise = NOISE * torch.randn(steps, *patches.shape, generator=generator)
    return weight.to(patches), bias.to(patches), noise.to(patches)


class TokenAdapter:
    """Half of a patch, and half of what a linear layer makes of its direction.

    With a bank the layer chooses among its rows, ``tanh(linear(x)) @ bank``; without, its output is the other half. Gradients
    have to be on wherever this is used.

    Args:
        text: (1, 2, D), row 0 normal, row 1 anomalous.
        grid: of the patches of one tile.
        size: (H, W) of the picture where the loss is one of pixels, joined over tiles; None: it is one of patches.
        bank: (M, D), directions of sentences; None: there is none.
        lr: learning rate of AdamW, whose other settings are torch's.
    """

    def __init__(
        self, text: Tensor, grid: tuple[int, int], size: tuple[int, int] | None, bank: Tensor | None, lr: float = 1e-3
    ) -> None:
        self.text, self.grid, self.size, self.bank = text, grid, size, bank
        self.weight, self.bias = nn.Parameter(text.new_zeros(0)), nn.Parameter(text.new_zeros(0))
        self.optimizer = torch.optim.AdamW([self.weight, self.bias], lr=lr)

    def __call__(self, patches: Tensor) -> Tensor:
        """(1, n * L, D) of any length -> adapted, the same shape."""
        made = F.linear(F.normalize(patches, dim=-1), self.weight, self.bias)
        return (patches + (made if self.bank is None else made.tanh() @ self.bank)) / 2

    def probabilities(self, patches: Tensor) -> Tensor:
        """Of adapted patches (1, n * L, D), both classes' in every place that the loss counts: (1, places, 2)."""
        logits = text_logits(self(patches), self.text, 1.0)  # (1, n * L, 2)
        if self.size is not None:
            tiles = logits.unflatten(1, (-1, *self.grid)).movedim(-1, 2)  # (1, n, 2, h, w)
            logits = join_grids(tiles, self.size).flatten(2).transpose(1, 2)
        return logits.softmax(dim=-1)

    def loss(self, patches: Tensor, noise: Tensor) -> Tensor:
        """Entropy of the patches, and cross-entropy of them as normal and of noised ones as anomalous; means over places."""
        clean, noised = self.probabilities(patches), self.probabilities(patches + noise)
        entropy = -(clean * clean.log()).sum(dim=-1).mean()
        return entropy - (noised[..., 1].log().mean() + clean[..., 0].log().mean()) / 2

    def learn(self, patches: Tensor, weight: Tensor, bias: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """Makes steps from these weights on, one for each row of noise (steps, 1, n * L, D).

        Gives each step's loss when its gradients are there. AdamW's moments and its count of
        steps are those of earlier pictures, if there were any.
        """
        self.weight.data, self.bias.data = weight.clone(), bias.clone()
        for one in noise:
            self.optimizer.zero_grad()
            loss = self.loss(patches, one)
            loss.backward()
            yield loss.detach()
            self.optimizer.step()
