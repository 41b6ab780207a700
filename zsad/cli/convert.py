"""``zsad convert``: the authors' checkpoints become safetensors whose header says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zsad.backbones import openclip
from zsad.errors import UsageError
from zsad.registry import create, list_backbones, load_by_recipe, method_class
from zsad.weights.checkpoints import published

__all__ = ["convert_checkpoint"]


def convert_checkpoint(
    source: Path,
    method: str,
    out: Path,
    *,
    backbone: str | None = None,
    arguments: dict[str, Any] | None = None,
    trained_on: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Reads a checkpoint as ``create(method, checkpoint=source)`` does, strictly, and writes it with a header.

    CLIP's own weights are not needed: where they are not here, the backbone is built with shapes alone, and the start token
    that a file holds cannot be compared with the backbone's.

    Args:
        source: the authors' file.
        method: a method with learned weights.
        out: the safetensors file to write.
        backbone: what the weights were learned on; None is the method's own.
        arguments: the method's keywords; sizes follow from the file.
        trained_on: the data that it learned from; None takes the row of ``checkpoints/index.toml`` with the file's digest.
        licence: of the weights; None likewise.
        overwrite: whether ``out`` may be there already.

    Returns:
        The header, and ``compared``: whether the backbone's weights were there.

    Raises:
        UsageError: the method learns nothing, ``out`` is there, or nobody says what the file learned from.
        WeightsError: the file cannot be read or does not fit.
    """
    cls = method_class(method)
    if not cls.learned:
        raise UsageError(f"{method} has no learned weights, so there is nothing to convert.")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out is {out.name!r}; give it the ending .safetensors.")
    if out.exists() and not overwrite:
        raise UsageError(f"{str(out)!r} is there already. Give --overwrite, or another name.")
    if not source.exists():
        raise UsageError(f"There is nothing at {str(source)!r}. Give the authors' file.")
    row = published(source)
    trained_on, licence = trained_on or (row.trained_on if row else None), licence or (row.licence if row else None)
    if not trained_on or not licence:
        raise UsageError(
            f"{source.name} is none of the published files that zsad knows, so say what it learned from and its licence: "
            "--trained-on 'VisA' --licence 'MIT' ('unknown' where you do not know)."
        )
    tower, compared = _tower(cls, backbone or cls.recipe.backbone)
    detector = create(method.partition(".")[0], backbone=tower, checkpoint=source, **arguments or {})
    about = {"trained_on": trained_on, "licence": licence, "source": row.source if row else source.name}
    out.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = detector.save(out, **about, source_sha256=detector.weights_sha256)
    return header | {"compared": compared, "size": out.stat().st_size}


def _tower(cls: Any, name: str) -> tuple[Any, bool]:
    """The backbone by the method's recipe, and whether it has weights; an open_clip name that is not here has shapes alone."""
    if name in list_backbones() or ":" in name or openclip.cached(name):
        return load_by_recipe(cls.name, cls.recipe, name), True
    options = {key: getattr(cls.recipe, key) for key in ("activation", "position_embedding", "image_size")}
    with torch.device("meta"):
        return openclip.build(name, name.partition(".")[0], **options).eval().requires_grad_(False), False
