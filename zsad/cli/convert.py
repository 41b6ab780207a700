"""``zsad convert``: the authors' checkpoints become safetensors whose header says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from zsad.backbones import openclip, tips_files
from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.options import Backbone, Json, Replace, Sets, method_arguments
from zsad.errors import UsageError
from zsad.registry import create, list_backbones, load_by_recipe, method_class
from zsad.weights.checkpoints import published


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint as its authors publish it.")],
    method: Annotated[str, typer.Option(help="The method that it belongs to; see zsad list methods.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; by default beside the source.")] = None,
    backbone: Backbone = None,
    set_: Sets = None,
    trained_on: Annotated[str | None, typer.Option(help="What it learned from; known of the published files.")] = None,
    licence: Annotated[str | None, typer.Option(help="Its licence; known of the published files.")] = None,
    overwrite: Replace = False,
    as_json: Json = False,
) -> None:
    """Checks an authors' checkpoint and writes it as safetensors, with a header that says what it is."""
    target = out or source.with_suffix(".safetensors")
    header = convert_checkpoint(
        source,
        method,
        target,
        backbone=backbone,
        arguments=method_arguments(method, set_, None),
        trained_on=trained_on,
        licence=licence,
        overwrite=overwrite,
    )
    if as_json:
        print_json(header | {"out": str(target)})
        return
    tower = header["backbone"]
    sizes = ", ".join(f"{key}={value!r}" for key, value in header["arguments"].items())
    typer.echo(f"Written to {target}: {header['size'] / 1e6:.1f} MB, method {header['method']} ({sizes}).")
    geometry = f"{tower['image_size']} px, {tower['activation']}, positions {tower['position_embedding']}"
    typer.echo(f"Learned on {tower['name']} at {geometry}.")
    typer.echo(f"Learned from: {header['trained_on']}. Licence: {header['licence']}.")
    if not header["compared"]:
        typer.echo(f"The weights of {tower['name']} are not here, so names and shapes were compared, and no values.")


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
    if not (cls.learned or cls.optional_weights):
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
    """The backbone by the method's recipe, and whether it has weights; a published one that is not here has shapes alone."""
    if name in tips_files.PUBLISHED and tips_files.listed(name)["here"] == "no":
        width, size = tips_files.PUBLISHED[name].width, cls.recipe.image_size
        with torch.device("meta"):  # one block, since a method learns nothing inside the towers
            return tips_files.load_tips_tiny(name, image_size=size, width=width, layers=1).eval().requires_grad_(False), False
    if name in list_backbones() or ":" in name or openclip.cached(name):
        return load_by_recipe(cls.name, cls.recipe, name), True
    options = {key: getattr(cls.recipe, key) for key in ("activation", "position_embedding", "image_size")}
    with torch.device("meta"):
        return openclip.build(name, name.partition(".")[0], **options).eval().requires_grad_(False), False
