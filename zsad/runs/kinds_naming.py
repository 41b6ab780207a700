"""Names of a run's kinds, by a vision-language model that sees a contact sheet of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from zsad.errors import MissingExtra
from zsad.explain.model import VisionLanguageModel
from zsad.inference.region_features import Found
from zsad.kinds.grouping import Kinds
from zsad.runs.kinds_report import largest

__all__ = ["Namer", "NamingPlan", "sheet"]

COLUMNS, MOST, SIDE, GAP = 4, 12, 224, 8  # of a sheet: crops in a row, crops, and pixels of a crop's side and between crops


@dataclass(frozen=True)
class NamingPlan:
    """What is to be sent, told before anything is.

    Attributes:
        kinds: as many requests, with one picture each.
        tokens: estimated.
        places: folders and files from which pictures are taken.
    """

    kinds: int
    tokens: int
    places: Sequence[Path]


@dataclass(frozen=True)
class Namer:
    """Asks a model for the names of kinds.

    Attributes:
        model: what is asked.
        announce: gets what will be sent before anything is.
    """

    model: VisionLanguageModel
    announce: Callable[[NamingPlan], None] = lambda plan: None

    def name(
        self, kinds: Kinds, target: str, regions: Sequence[Found], features: Any, places: Sequence[Path]
    ) -> tuple[Kinds, dict[str, str]]:
        """The kinds with the model's names, and why a kind has none of it, by its name.

        Args:
            kinds: as found.
            target: name of the object.
            regions: of the run.
            features: (N, D) of them.
            places: folders and files that their pictures are from.

        Raises:
            MissingExtra: pydantic, which checks answers, is not installed.
        """
        try:
            from zsad.explain.naming import name_all, tokens_of
        except ImportError as error:
            raise MissingExtra("Checking what a model answers", "explain") from error
        nearest = kinds.similarity(features)
        own = nearest.argmax(axis=1)
        sheets = [
            sheet([region for region, mine in zip(regions, own == kind, strict=True) if mine] or [regions[likest]])
            for kind, likest in enumerate(nearest.argmax(axis=0))
        ]
        tokens = sum(tokens_of(target, (one.height, one.width)) for one in sheets)
        self.announce(NamingPlan(len(sheets), tokens, places))
        named = name_all(self.model, target, sheets, kinds.names)
        return replace(kinds, names=tuple(one.name for one in named)), {one.name: one.why for one in named if one.why}


def sheet(regions: Sequence[Found]) -> Image.Image:
    """The largest regions' crops side by side on white; at least one region."""
    shown = largest(regions, MOST)
    columns, rows = min(COLUMNS, len(shown)), -(-len(shown) // COLUMNS)
    step = SIDE + GAP
    whole = Image.new("RGB", (columns * step - GAP, rows * step - GAP), "white")
    for place, region in enumerate(shown):
        crop = Image.fromarray(region.crop).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        whole.paste(crop, (place % COLUMNS * step, place // COLUMNS * step))
    return whole
