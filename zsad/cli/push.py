"""``zsad finetune``, ``zsad push`` and ``zsad convert``: learned weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zsad.cli.app import EXIT_CODES, Json, app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.options import Backbone, Checkpoint, Sets, ValueRange, Words, joined, method_arguments
from zsad.common.file_names import many


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
    from zsad.cli.convert import convert_checkpoint

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


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def finetune(
    method: Annotated[str, typer.Argument(help="A method with learned weights, or method.tag to go on from; see zsad list.")],
    data: Annotated[list[str], typer.Option(help="A data set of OTHER categories than those to judge; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, metrics.jsonl, loss.png and errors.jsonl.")],
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures; the paper's by default.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures per step over all processes; the paper's by default.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the paper's by default.")] = None,
    lr_schedule: Annotated[
        Literal["constant", "one_cycle"] | None, typer.Option(help="How the rate runs; the paper's by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of first values, order and synthetic defects.")] = 111,
    synthetic: Annotated[
        int, typer.Option(min=0, help="Synthetic defects per normal picture; unlabelled ones are normal.")
    ] = 0,
    split: Annotated[str, typer.Option(help="train, test or what the data has; all.")] = "test",
    categories: Annotated[str | None, typer.Option(help="Learn only from these, with commas between.")] = None,
    kinds: Annotated[str | None, typer.Option(help="Learn only from these kinds, with commas between: good,crack.")] = None,
    layout: Annotated[str | None, typer.Option(help="Of the data, where it fits several.")] = None,
    parts: Annotated[int, typer.Option(min=1, help="Pieces that a step is cut into, to save memory.")] = 1,
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
    set_: Sets = None,
    device: Annotated[Literal["auto", "cpu"], typer.Option(help="auto is what accelerate finds.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Of the forward pass.")] = "fp32",
    cache: Annotated[Path | None, typer.Option(help="Folder for features, which runs may share; by default OUT/cache.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Encode the pictures anew in every epoch.")] = False,
    value_range: ValueRange = None,
    licence: Annotated[str, typer.Option(help="Licence of the data, for the header and the card.")] = "not stated",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write OUT/tensorboard too.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on behind the last whole epoch in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")] = False,
    as_json: Json = False,
) -> None:
    """Trains a method on annotated pictures, or on normal ones with synthetic defects (--synthetic 1).

    The last epoch is the result: no checkpoint is chosen. Several processes: accelerate launch -m zsad
    finetune ... on GPUs, torchrun --nproc-per-node 2 -m zsad finetune ... on CPUs.
    """
    from zsad.cli.evaluate import words_of
    from zsad.cli.finetune import finetune_method

    chosen = {"categories": words_of(categories), "kinds": words_of(kinds)}
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "lr_schedule": lr_schedule}
    settings |= {"seed": seed, "synthetic": synthetic}
    settings |= {"split": None if split == "all" else split, "parts": parts, "device": device, "precision": precision}
    settings |= {"cache": False if no_cache else cache or True, "value_range": value_range, "licence": licence}
    settings |= {"tensorboard": tensorboard, "resume": resume, "overwrite": overwrite}
    arguments = method_arguments(method, set_, word)
    weights: dict[str, Any] = {"backbone": backbone, "checkpoint": checkpoint}
    joined(settings | weights | chosen | {"layout": layout}, arguments)
    found = finetune_method(method, data, out, **weights, arguments=arguments, settings=settings, layout=layout, chosen=chosen)
    if not found.pop("main"):
        return
    if as_json:
        print_json(found)
        return
    losses = found["losses"]
    typer.echo(f"Written to {found['out']}: {found['method']} after {many(found['epoch'], 'epoch')}.")
    typer.echo(f"Mean loss of the first epoch {losses[0]:.4f}, of the last {losses[-1]:.4f}; see {out / 'loss.png'}.")
    typer.echo(f"Learned from: {found['trained_on']}. Licence: {found['licence']}.")


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def push(
    out: Annotated[Path, typer.Argument(help="The out folder of zsad finetune, or a file of zsad convert.")],
    target: Annotated[str, typer.Argument(help="A folder, or org/name on the Hugging Face hub.")],
    figures: Annotated[Path | None, typer.Option(help="JSON file of results for the card: names and values.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Of a repository that is made anew.")] = False,
) -> None:
    """Publishes learned weights with a card: figures, data, licence, settings.

    TARGET is a folder where it begins with ./ or / or ~, is here, or lies in a folder that is here; else org/name
    is a repository of the hub. hf://org/name is one in any case.
    """
    from zsad.cli.finetune import push_weights

    typer.echo(f"Published: {push_weights(out, target, figures, private)}")
