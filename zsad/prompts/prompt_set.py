"""Prompt sets: the sentences for "normal" and for "anomalous", from ``prompts/*.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.common.assets import asset
from zsad.common.atomic_files import write_atomically
from zsad.errors import SourceNotFound, UnknownName, UsageError
from zsad.types import TextBackbone

__all__ = ["PromptSet", "encode_ensemble", "encoded_pair"]


@dataclass(frozen=True)
class PromptSet:
    """Sentences per class of text, as states x templates.

    Attributes:
        states: class -> phrases with one ``{}`` for the object's name, such as ``"damaged {}"``.
        templates: sentences with one ``{}`` for the phrase.
        source: paper or code that they come from.
        names: how sentences and ``details`` call a category, where not by its name.
        details: category -> its defects, such as ``"rust spots"``.
    """

    states: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]
    source: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, name_or_path: str | Path) -> PromptSet:
        """Reads ``prompts/<name>.toml``, or a TOML file of one's own (a path, or a name that ends in .toml).

        Raises:
            SourceNotFound: no such file.
            UsageError: it is no prompt set; the message names what is wrong.
        """
        own = str(name_or_path).endswith(".toml")
        path = Path(name_or_path) if own else _shipped(str(name_or_path))
        if not path.is_file():
            raise SourceNotFound(f"There is no prompt set at {str(path)!r}.")
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            states = {key: tuple(phrases) for key, phrases in table["states"].items()}
            details = {key: tuple(defects) for key, defects in table.get("details", {}).items()}
            names = dict(table.get("names", {}))
            found = cls(states, tuple(table["templates"]), table.get("source", ""), names, details)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path.name} is no prompt set ({error}): it needs a list 'templates' and a table [states] of lists of phrases."
            ) from error
        found.check(path.name)
        return found

    def check(self, name: str) -> None:
        """Raises ``UsageError`` where a phrase or template has not exactly one ``{}``, or a class is empty."""
        for key, lines in [*self.states.items(), ("templates", self.templates)]:
            if not lines:
                raise UsageError(f"{name}: {key!r} is empty.")
            for line in lines:
                if not isinstance(line, str) or line.count("{}") != 1:
                    raise UsageError(f"{name}: {line!r} in {key!r} needs exactly one {{}}.")

    def sentences(self, name: str) -> dict[str, tuple[str, ...]]:
        """The exact sentences of every class for an object's name, states outside, templates inside."""
        return {
            key: tuple(template.replace("{}", phrase.replace("{}", name)) for phrase in phrases for template in self.templates)
            for key, phrases in self.states.items()
        }

    def save(self, path: Path) -> None:
        """Writes states, templates and source as a TOML file, which ``load`` reads; raises ``UsageError`` as ``check``."""
        self.check(path.name)
        lists = "\n".join(f"{kind} = {_listed(lines)}" for kind, lines in self.states.items())
        head = f"source = {_quoted(self.source)}\n" if self.source else ""
        write_atomically(path, f"{head}templates = {_listed(self.templates)}\n\n[states]\n{lists}\n".encode())

    @staticmethod
    def pair(name_or_path: str, target: str) -> dict[str, tuple[str, ...]]:
        """The sentences of a set for a target's name, normal ones first.

        Raises:
            UsageError: the set has other classes than "normal" and "anomalous".
        """
        sentences = PromptSet.load(name_or_path).sentences(target)
        if set(sentences) != {"normal", "anomalous"}:
            raise UsageError(
                f"{name_or_path} has the classes {sorted(sentences)}; it needs the classes 'normal' and 'anomalous'."
            )
        return {"normal": sentences["normal"], "anomalous": sentences["anomalous"]}


def _listed(lines: Sequence[str]) -> str:
    return "[\n" + "".join(f"  {_quoted(line)},\n" for line in lines) + "]"


def _quoted(text: str) -> str:
    """A TOML string; control characters become spaces."""
    plain = "".join(one if one.isprintable() else " " for one in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shipped(name: str) -> Path:
    folder = asset("prompts")
    known = [path.stem for path in folder.glob("*.toml") if path.stem != "classes"]  # that one holds objects' names
    if name not in known:
        raise UnknownName.among("prompt set", name, known)
    return folder / f"{name}.toml"


def encoded_pair(backbone: TextBackbone, prompts: str, name: str) -> tuple[Tensor, dict[str, tuple[str, ...]]]:
    """Text features (1, 2, D) of a set's sentences with this name, normalised in "both" places, and the sentences by class."""
    sentences = PromptSet.pair(prompts, name)
    return encode_ensemble(backbone, [*sentences.values()], normalize="both"), sentences


def encode_ensemble(backbone: TextBackbone, sentences: Sequence[Sequence[str]], *, normalize: str = "both") -> Tensor:
    """Encodes many sentences per class into one vector per class.

    Args:
        backbone: encodes text.
        sentences: per class, its sentences.
        normalize: where vectors are L2-normalised: "before" (each sentence), "after" (the mean), "both" (the APRIL-GAN family)
            or "none" (the plain mean of raw vectors).

    Returns:
        (1, classes, D). Repeated sentences count as often as they stand there.
    """
    if normalize not in ("before", "after", "both", "none"):
        raise UsageError(f"normalize={normalize!r}: choose 'before', 'after', 'both' or 'none'.")
    unique = list(dict.fromkeys(line for lines in sentences for line in lines))
    encoded = backbone.encode_text(unique)  # (unique, D)
    if normalize in ("before", "both"):
        encoded = F.normalize(encoded, dim=-1)
    row = {line: index for index, line in enumerate(unique)}
    means = torch.stack([encoded[[row[line] for line in lines]].mean(dim=0) for lines in sentences])
    return (F.normalize(means, dim=-1) if normalize in ("after", "both") else means)[None]
