"""``zsad convert``: files of learned weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.frame import EXIT_CODES, Json, app, sentence_on_error
from zsad.console import print_json
from zsad.options import Backbone, Sets, method_arguments


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Checks an authors' checkpoint and writes it as safetensors, with a header that says what it is."""
    from zsad.converting import convert_checkpoint

    target = out or source.with_suffix(".safetensors")
    arguments = method_arguments(method, set_, None)
    header = convert_checkpoint(
        source,
        method,
        target,
        backbone=backbone,
        arguments=arguments,
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
