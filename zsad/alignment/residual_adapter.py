"""A bottleneck beside a feature, added to it: what adapts frozen features to frozen text."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResidualAdapter", "RowNorm"]


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation of rows (N, C); one row alone has no variance and takes the running statistics in training too."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ResidualAdapter(nn.Module):
    """``x + up(relu(norm(down(x))))``, without biases in the linear layers (AdaptCLIP's visual adapter).

    Args:
        channels: of the features.
        hidden: channels of the bottleneck.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), RowNorm(hidden), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C). In training mode the statistics run over all rows."""
        added: Tensor = self.fc(x.reshape(-1, x.shape[-1]))
        return x + added.view(x.shape)
