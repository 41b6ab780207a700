"""Published weights: a folder or a repository of the Hugging Face hub, with a model card; and detectors built from them."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from zsad.common.arguments import checked
from zsad.common.atomic_files import write_atomically
from zsad.errors import CheckpointMismatch, SourceNotFound, UsageError, WeightsUnavailable
from zsad.registry import create, load_backbone, method_class
from zsad.weights.checkpoints import read_header
from zsad.weights.download import HUB, WEIGHTS
from zsad.weights.learned import OF_THE_DETECTOR, locate

__all__ = ["card", "from_pretrained", "publish", "push_to_hub"]

log = logging.getLogger("zsad")
CARD = "README.md"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
NOT_STATED = "not stated"
SETTINGS = (
    *("optimizer", "lr", "betas", "weight_decay", "clip", "batch_size", "epochs", "epoch"),
    *("seed", "synthetic", "precision", "processes", "versions"),
)


@checked
def from_pretrained(source: str | Path, *, backbone: Any = None, **arguments: Any) -> Any:
    """Builds the detector that a file of learned weights belongs to, on the encoders that it was learned on.

    Args:
        source: "org/name" or "hf://org/name" on the hub, a folder, or a file that ``Detector.save`` wrote. What exists on
            disk goes first.
        backbone: another backbone than the header's, by name or built.
        **arguments: the method's keywords, instead of those in the header.

    Raises:
        CheckpointMismatch: the file has no header, or one that names a file of the machine it was written on.
    """
    remote = not Path(source).exists() and REPOSITORY.fullmatch(str(source))
    path = locate(f"hf://{source}" if remote else source)
    if not path.is_file():
        raise SourceNotFound(f"There are no weights at {str(source)!r}. Give a file, a folder, or 'org/name' on the hub.")
    header = read_header(path)
    if "method" not in header:
        raise CheckpointMismatch(
            f"{path.name} does not say which method it belongs to. Use create(method, checkpoint=path), for zsad demo "
            "--checkpoint METHOD=FILE."
        )
    default = str(method_class(header["method"]).recipe.backbone)
    known = {"backbone": {"name": default} | header.get("backbone", {}), **header.get("encoders", {})}
    given = {key: one for key, one in {"backbone": backbone, **arguments}.items() if one is not None}
    encoders = {key: given.get(key) or _encoder_of(facts, key, path.name) for key, facts in known.items()}
    return create(header["method"], checkpoint=path, **arguments | encoders)


def _encoder_of(facts: Mapping[str, Any], keyword: str, file: str) -> Any:
    """The encoder that a header names, with the settings of then."""
    name = str(facts["name"])
    if name.startswith("file:"):
        raise CheckpointMismatch(f"{file} was learned on {name!r}, a file of another machine. Pass {keyword}=.")
    keys = ("activation", "position_embedding", "image_size")
    built = load_backbone(name, **{key: facts[key] for key in keys if key in facts})
    then, now = facts.get("weights_sha256"), built.weights_sha256
    if then and now and then != now:
        log.warning("%s was learned on other weights of %s: %.8s, here %.8s.", file, name, then, now)
    return built


# ------------------------------------------------------------------ publishing
class Publishable(Protocol):
    """The parts of a ``Detector`` that publishing needs."""

    header: dict[str, Any]

    def require_trained(self) -> None:
        """Raises ``NotTrained``."""

    def save(self, path: str | Path, **about: Any) -> dict[str, Any]:
        """Writes the learned weights."""


def push_to_hub(
    detector: Publishable, target: str | Path, *, figures: Mapping[str, Any] | None = None, private: bool = False
) -> str:
    """Publishes a detector's learned weights; those that were loaded keep their header. Arguments as of ``publish``."""
    detector.require_trained()
    kept = {key: value for key, value in detector.header.items() if key not in OF_THE_DETECTOR}
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / WEIGHTS, **kept)
        return publish(Path(folder) / WEIGHTS, target, figures=figures, private=private)


def publish(weights: str | Path, target: str | Path, *, figures: Mapping[str, Any] | None = None, private: bool = False) -> str:
    """Puts weights and their card into a folder, or uploads them.

    Args:
        weights: a file of ``Detector.save``, or the out folder of ``zsad.train``.
        target: "hf://org/name", or a folder: a ``Path``, a text that begins with ".", "/" or "~", or one whose folder is here
            or would be made in one that is here. Any other "org/name" is a repository of the hub.
        figures: results for the card, by name.
        private: of a repository that is made anew.

    Returns:
        The folder, or the commit's address.

    Raises:
        CheckpointMismatch: the weights have no header.
        UsageError: the target is neither.
        WeightsUnavailable: the hub refused, or cannot be reached.
    """
    path = locate(weights)
    header = read_header(path)
    if "method" not in header:
        raise CheckpointMismatch(f"{path.name} does not say what it is. Run zsad convert first, which writes a header.")
    if (repository := _repository(target)) is None:
        folder = Path(target).expanduser()
        _fill(folder, path, header, f"./{folder.resolve().name}", figures or {})
        return str(folder)
    with tempfile.TemporaryDirectory() as folder_name:
        _fill(Path(folder_name), path, header, repository, figures or {})
        return _uploaded(Path(folder_name), repository, private)


def _repository(target: str | Path) -> str | None:
    """The hub's "org/name" that a target of ``publish`` means; None where it means a folder."""
    if remote := HUB.fullmatch(str(target)):
        return remote["repository"]
    if isinstance(target, Path) or target.startswith((".", "/", "~")) or Path(target).is_dir():
        return None
    if not REPOSITORY.fullmatch(target):
        raise UsageError(
            f"{target!r} is no 'org/name' of the hub. A folder begins with ./ or /, or it (or the folder above it) is here."
        )
    return None if Path(target).parent.is_dir() else target


def _fill(folder: Path, weights: Path, header: Mapping[str, Any], name: str, figures: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, weights.read_bytes())
    write_atomically(folder / CARD, card(header, name, figures).encode())


def _uploaded(folder: Path, repository: str, private: bool) -> str:
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
        done = HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Weights and card")
    except Exception as error:  # the hub and its transport raise a dozen kinds
        reason = str(error).strip().partition("\n")[0]
        raise WeightsUnavailable(
            f"Nothing was uploaded to {repository}: {reason}. Log in with `hf auth login`, or give a folder: ./name."
        ) from error
    return str(done)


def card(header: Mapping[str, Any], name: str, figures: Mapping[str, Any]) -> str:
    """Model card as Markdown: what it is, how to use it, figures, data, licence, training. Only what the header states."""
    encoders = {"backbone": header.get("backbone", {}), **header.get("encoders", {})}
    licence = str(header.get("licence") or NOT_STATED)
    spdx = licence.lower() if re.fullmatch(r"[A-Za-z]+[\w.-]*", licence) else "other"
    arguments = ", ".join(f"{key}={value!r}" for key, value in header.get("arguments", {}).items()) or "the defaults"
    front = ["---", f"license: {spdx}", "library_name: zsad", "pipeline_tag: image-segmentation", "tags: [anomaly-detection]"]
    lines = [*front, "---", "", f"# {Path(name).name}", ""]
    lines += [
        f"Learned weights of `{header['method']}` for [zsad](https://pypi.org/project/zsad): zero-shot anomaly detection."
    ]
    lines += ["They hold what the method learned and not the backbone, which is loaded from its own source.", ""]
    lines += [
        f"- {keyword}: `{one.get('name', NOT_STATED)}`, {one.get('image_size', '?')} px, {one.get('activation', '?')}"
        for keyword, one in encoders.items()
    ]
    lines += [
        f"- arguments: {arguments}",
        f"- licence of data and weights, as stated by who trained: {licence}",
        "",
        "```python",
        "import zsad",
        "",
    ]
    lines += [f'detector = zsad.from_pretrained("{name}")', "```", "", "## Figures", ""]
    lines += _table(("", "value"), [(key, _shown(value)) for key, value in figures.items()]) or ["None were given."]
    losses = [(number, f"{loss:.4f}") for number, loss in enumerate(header.get("losses", []), 1)]
    lines += ["", "## Training loss", "", *(_table(("epoch", "mean loss"), losses) or [f"{NOT_STATED}."])]
    lines += ["", "## Data", "", f"Learned from: {header.get('trained_on', NOT_STATED)}.", ""]
    lines += _table(("data set", "categories", "pictures", "licence"), [_data_row(one) for one in header.get("data", [])])
    known = {key: header[key] for key in SETTINGS if key in header}
    lines += ["", "A SHA-256 per picture is in the header of the file.", "", "## Settings", "", "```json"]
    return "\n".join([*lines, json.dumps(known, indent=1), "```", ""])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table; [] where there are no rows."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines] if rows else []


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _data_row(data: Mapping[str, Any]) -> tuple[str, str, int, str]:
    categories = ", ".join(data.get("categories", []))
    return str(data.get("name")), categories, len(data.get("pictures", {})), str(data.get("licence", NOT_STATED))
