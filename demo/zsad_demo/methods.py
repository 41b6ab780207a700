"""The methods that the page offers: what each needs, and how large a download is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature

import zsad
from zsad.registry import method_class
from zsad_demo.checkpoints import Checkpoint


@dataclass(frozen=True)
class MethodOption:
    """A method in the page's menu.

    Attributes:
        label: one line for the menu.
        note: a sentence on the weights that it needs.
        download: megabytes that choosing it would download; 0 where the weights are on this machine.
        usable: False where it needs a checkpoint that only the operator of the page can give.
        words: True where the method takes defect words.
        target: of an exported model, which has it, its words and its references inside; None: visitors choose them.
    """

    name: str
    label: str
    note: str
    download: float = 0.0
    usable: bool = True
    words: bool = False
    target: str | None = None

    @property
    def focus(self) -> bool:
        """True where words can say what to look at and what not."""
        return self.target is None and "focus" in signature(method_class(self.name).__init__).parameters

    @property
    def consent(self) -> str:
        """Label of the checkbox that allows the download."""
        return f"Download {self.download:.0f} MB of weights"


def method_options(checkpoints: Mapping[str, Checkpoint] | None = None) -> dict[str, MethodOption]:
    """Every method by name, the embedded default first. Nothing is loaded or downloaded.

    Args:
        checkpoints: loaded weights by method.
    """
    listed, checkpoints = zsad.listings(), checkpoints or {}
    sizes = {row["name"]: row for row in listed["backbones"]}
    options = [
        _with_checkpoint(checkpoints[row["name"]]) if row["name"] in checkpoints else _without_checkpoint(row, sizes)
        for row in listed["methods"]
    ]
    options += [_with_checkpoint(one) for one in checkpoints.values() if one.exported]
    options.sort(key=lambda one: (one.name != "compact", not one.usable, one.download, one.name))
    return {one.name: one for one in options}


def _with_checkpoint(checkpoint: Checkpoint) -> MethodOption:
    if model := checkpoint.exported:
        about, note = model.meta.model, f"An exported model of {model.name} for {model.meta.target!r}, on this machine; "
        note += "words and references are inside it."
        return MethodOption(
            checkpoint.key, f"{checkpoint.key}: exported {model.name}, {about['precision']}", note, target=model.meta.target
        )
    detector = checkpoint.detector
    trained_on = detector.header.get("trained_on", "not stated")
    note = f"Weights {checkpoint.name} with backbone {detector.backbone.name}, on this machine. Trained on: {trained_on}."
    return MethodOption(detector.name, f"{detector.name}: {checkpoint.name}", note, words=detector.name == "compact")


def _without_checkpoint(row: dict[str, str], backbones: dict[str, dict[str, str]]) -> MethodOption:
    name, backbone = row["name"], backbones.get(row["backbone"], {})
    if name == "compact":
        return MethodOption(name, "compact: ships with zsad", "13 MB, on this machine; nothing is downloaded.", words=True)
    if name == "musc":
        note = "Compares the pictures with each other, so it needs several; runs on the backbone that ships with zsad."
        return MethodOption(name, "musc: compares the pictures of a batch", note)
    if row["weights"] == "pass --checkpoint":
        note = (
            "Needs the authors' checkpoint, which is not on this machine. The operator of this page can load it: "
            f"zsad demo --checkpoint {name}=FILE."
        )
        return MethodOption(name, f"{name}: needs --checkpoint", note, usable=False)
    size, here = float(backbone.get("size", "0 MB").split()[0]), backbone.get("here") == "yes"
    weights = f"{row['backbone']}, {size:.0f} MB"
    if here:
        return MethodOption(name, f"{name}: {weights}", f"{weights}, on this machine.")
    note = f"{weights}: downloaded once, only after you agree."
    return MethodOption(name, f"{name}: {weights} to download", note, download=size)
