"""Which methods there are, what their weights weigh, and whether they are here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import zsad
from zsad_demo.weights import Given


@dataclass(frozen=True)
class Offer:
    """A method as the page offers it.

    Attributes:
        label: one line for the menu.
        note: a sentence on what it needs.
        download: megabytes that choosing it would fetch; 0 where all is here.
        usable: False where it cannot score without a file that only the user has.
    """

    name: str
    label: str
    note: str
    download: float = 0.0
    usable: bool = True
    words: bool = False


def offers(given: Mapping[str, Given] | None = None) -> dict[str, Offer]:
    """Every method, the embedded default first. Nothing is loaded or downloaded for it.

    Args:
        given: learned weights by method.
    """
    found, given = zsad.listings(), given or {}
    sizes = {row["name"]: row for row in found["backbones"]}
    made = [_with(given[row["name"]]) if row["name"] in given else _offer(row, sizes) for row in found["methods"]]
    made.sort(key=lambda one: (one.name != "compact", not one.usable, one.download, one.name))
    return {one.name: one for one in made}


def _with(given: Given) -> Offer:
    """A method whose weights whoever serves the page has chosen."""
    detector = given.detector
    learned = detector.header.get("trained_on", "not on record")
    note = f"Weights {given.name} on {detector.backbone.name}, here. Learned from: {learned}."
    return Offer(detector.name, f"{detector.name}: {given.name}", note, words=detector.name == "compact")


def _offer(row: dict[str, str], backbones: dict[str, dict[str, str]]) -> Offer:
    name, tower = row["name"], backbones.get(row["backbone"], {})
    if name == "compact":
        return Offer(name, "compact: ships with zsad", "13 MB, here; nothing is downloaded.", words=True)
    if name == "musc":
        return Offer(name, "musc: the pictures judge each other", "On the tower that ships with zsad; needs several pictures.")
    if row["weights"] == "pass --checkpoint":
        note = (
            "Needs the authors' file of learned weights, which is not here. Whoever serves this page can give it: "
            f"zsad demo --checkpoint {name}=FILE."
        )
        return Offer(name, f"{name}: needs --checkpoint", note, usable=False)
    size, here = float(tower.get("size", "0 MB").split()[0]), tower.get("here") == "yes"
    said = f"{row['backbone']}, {size:.0f} MB"
    if here:
        return Offer(name, f"{name}: {said}, here", f"{said}; it is on this machine already.")
    return Offer(name, f"{name}: {said} to download", f"{said} would be downloaded once, only after you agree.", download=size)
