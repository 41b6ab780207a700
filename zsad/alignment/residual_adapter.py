"""A learned correction of a feature."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ResidualAdapter"]


class ResidualAdapter(nn.Module):
    """x plus a bottleneck of two layers without bias, ReLU between them and SiLU behind (FiLo).

    Args:
        dim: of the feature; the bottleneck is half as wide.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        narrow = dim // 2
        self.fc = nn.Sequential(nn.Linear(dim, narrow, bias=False), nn.ReLU(), nn.Linear(narrow, dim, bias=False), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        corrected: Tensor = x + self.fc(x)
        return corrected
