"""Reference patches as a dictionary: learned keys and values, of which few are averaged for each patch (DictAS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.sparse_lookup import look_up
from zsad.alignment.token_generator import TokenGenerator
from zsad.errors import UsageError
from zsad.references.derived import derived
from zsad.references.memory_bank import whole_pictures
from zsad.references.mutual_scoring import neighbourhood_means
from zsad.types import Bank, Tap

__all__ = ["RENAMES", "Entries", "Found", "PatchDictionary"]

RENAMES: dict[str, str | None] = {  # DictAS's file, for a method that calls the dictionary "generators"
    r"^Query_Generator\.": "generators.query.",
    r"^Key_Generator\.": "generators.key.",
    r"^Value_Generator\.AttnBlock\.": "generators.value.",
    r"\.TwoLayerMLP\.": ".",
    r"^Fuse_Feature\.": "fusion.",
}
Entries: TypeAlias = tuple[Tensor, Tensor]  # keys and values, (R, G, K * L, C) each: R scales, G dictionaries of K pictures


@dataclass(frozen=True)
class Found:
    """What a dictionary has for the patches of B pictures, at R scales."""

    asked: Tensor  # (R, B, L, C), means of the patches
    found: Tensor  # (R, B, L, C)

    @property
    def distance(self) -> Tensor:
        """1 - cosine of both, (R, B, L)."""
        return 1 - F.cosine_similarity(self.asked, self.found, dim=-1)


class PatchDictionary(nn.Module):
    """One set of generators for all layers and scales.

    Args:
        width: channels of a patch.
        scales: odd sides of the neighbourhoods whose means are looked up, zeros beyond the border counted.
        heads: of the generators' attention.

    Raises:
        UsageError: a side is even or below 1.
    """

    def __init__(self, width: int, scales: Sequence[int], heads: int = 4) -> None:
        super().__init__()
        if not scales or any(side < 1 or side % 2 == 0 for side in scales):
            raise UsageError(f"scales={tuple(scales)}: neighbourhoods have odd sides, such as (1, 3).")
        self.scales = tuple(scales)
        self.query, self.key = TokenGenerator(width, heads), TokenGenerator(width, heads)
        self.value = TokenGenerator(width, heads, residual=True)

    def means(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, L, C) -> neighbourhood means, (R, B, L, C)."""
        return neighbourhood_means(patches.unflatten(1, grid), self.scales).flatten(2, 3)

    def entries(self, patches: Tensor, grid: tuple[int, int]) -> Entries:
        """(G, K, L, C), the K references of each of G dictionaries; all patches of one dictionary attend to each other."""
        rows = self.means(patches.flatten(0, 1), grid).unflatten(1, patches.shape[:2]).flatten(2, 3)  # (R, G, K * L, C)
        return self.key(rows.flatten(0, 1)).reshape(rows.shape), self.value(rows.flatten(0, 1)).reshape(rows.shape)

    def of_bank(self, bank: Bank, tap: Tap) -> Entries:
        """The one dictionary of a bank's references, whose patches lie on the grid of ``tap``; computed once per bank."""

        def make() -> Entries:
            return self.entries(whole_pictures(bank, tap.patches.shape[1])[None], tap.grid)

        return derived(bank.rows, self, tap.grid, make)

    def forward(self, tap: Tap, entries: Entries, *, values_first: bool = True) -> Found:
        """Looks the patches of B pictures up, B / G of them in each dictionary.

        Args:
            tap: (B, L, C).
            entries: of G dictionaries.
            values_first: whether the patches pass the value generator before.
        """
        asked = self.means(self.value(tap.patches) if values_first else tap.patches, tap.grid)
        queries = self.query(asked.flatten(0, 1)).reshape(len(asked), entries[0].shape[1], -1, asked.shape[3])
        groups = (part.flatten(0, 1) for part in (queries, *entries))
        return Found(asked, torch.stack([look_up(*one) for one in zip(*groups, strict=True)]).reshape(asked.shape))

    def each(self, tap: Tap, references: Tap, values_first: bool) -> Found:
        """Looks each picture up in a dictionary of its own references, of which all have as many."""
        entries = self.entries(references.patches.unflatten(0, (len(tap.patches), -1)), references.grid)
        return self.forward(tap, entries, values_first=values_first)
