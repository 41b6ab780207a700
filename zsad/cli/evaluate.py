"""``zsad evaluate``: a data set with labels in, a table of metrics out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from zsad import evaluation
from zsad.cli.app import EXIT_CODES, app, keeps_scores_in, sentence_on_error
from zsad.cli.console import log_to_stderr, print_json, table
from zsad.cli.options import (
    AdaptivePrompts,
    Backbone,
    BatchSize,
    Categories,
    Checkpoint,
    Coreset,
    Device,
    Focus,
    Ignore,
    IgnoreWords,
    Json,
    KeepAspect,
    Kinds,
    Layout,
    Method,
    Overlap,
    Overwrite,
    Precision,
    Prompts,
    Resume,
    Roi,
    Role,
    Sets,
    Tile,
    ValueRange,
    Words,
    Workers,
    check_out,
    inspector_settings,
    names_in,
    roles_in,
)
from zsad.common.file_names import many, printable
from zsad.datasets import Dataset, open_dataset
from zsad.errors import UsageError
from zsad.evaluation.kinds import KindsRow, evaluate_kinds
from zsad.evaluation.metrics import check_metrics
from zsad.evaluation.metrics_table import Evaluation
from zsad.evaluation.plan import problems_of
from zsad.evaluation.store import FILES, MAPS

# options that are keywords of zsad.evaluate
PLAN = ("categories", "kinds", "metrics", "split", "map_size", "exact", "shots", "seeds", "raw_names", "coreset")
HOW = ("jobs", "keep_maps", "allow_leakage", "resume", "overwrite")
SHOWN = 10  # problems, errors and notes that are printed; metrics.json has all


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def evaluate(
    data: Annotated[str, typer.Option(help="Folder of a data set, the file that lists it, or elpv, elpv:mono, elpv:poly.")],
    method: Method = "compact",
    out: Annotated[str, typer.Option(help="Folder for metrics.csv, metrics.json and metrics.md.")] = "evaluation",
    categories: Categories = None,
    metrics: Annotated[str | None, typer.Option(help="Only these, with commas between: image_auroc, aupro, aupimo ...")] = None,
    layout: Layout = None,
    split: Annotated[str, typer.Option(help="Which pictures are scored.")] = "test",
    kinds: Kinds = None,
    role: Role = None,
    ignore: Ignore = None,
    map_size: Annotated[int | None, typer.Option(help="Pixel metrics at this size; by default at the model's.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Pixel metrics without bins.")] = False,
    shots: Annotated[int, typer.Option(help="Normal pictures per category that are given as references.")] = 0,
    seeds: Annotated[str, typer.Option(help="Of the draws of references, with commas between.")] = "0",
    raw_names: Annotated[bool, typer.Option("--raw-names", help="Categories' own names in sentences: pcb1.")] = False,
    coreset: Coreset = 1.0,
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    focus: Focus = None,
    ignore_words: IgnoreWords = None,
    prompts: Prompts = None,
    adaptive_prompts: AdaptivePrompts = False,
    word: Words = None,
    set_: Sets = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    value_range: ValueRange = None,
    tile: Tile = None,
    overlap: Overlap = None,
    roi: Roi = None,
    keep_aspect: KeepAspect = False,
    group_kinds: Annotated[
        bool, typer.Option("--group-kinds", help="Also: how well kinds found without labels agree with the data's kinds.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes; each takes whole categories.")] = 1,
    keep_maps: Annotated[bool, typer.Option("--keep-maps", help="Leave the maps in --out, as float32 .npy.")] = False,
    allow_leakage: Annotated[bool, typer.Option("--allow-leakage", help="Measure also on data that was learned from.")] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measures a method on a data set with labels: a table per category and the mean, printed and in --out.

    Layouts are recognised. What cannot be read becomes an error, and the rest is still measured.
    """
    given: dict[str, Any] = dict(locals())
    check_out(out)
    given |= {key: names_in(given[key]) for key in ("categories", "kinds", "metrics")} | {"seeds": _numbers_in(seeds)}
    settings = inspector_settings(given, *PLAN, *HOW)
    check_metrics(settings["metrics"])  # what is wrong ends here, before anything is read or loaded
    opened = open_dataset(data, layout, None, roles_in(role, ignore))
    chosen = opened.select(settings["categories"], split, settings["kinds"])
    problems, serious = problems_of(opened, chosen.categories)
    if not as_json:
        _print_data(chosen, problems)
    with keeps_scores_in(out), log_to_stderr():
        found = evaluation.evaluate(method, opened, out=out, **settings)
        shots_and_own = {key: value for key, value in settings.items() if key not in (*PLAN, *HOW)} | {"shots": shots}
        grouped = evaluate_kinds(method, chosen, **shots_and_own) if group_kinds else []
    if as_json:
        print_json(found.as_dict() | ({"kinds": [row.as_dict() for row in grouped]} if group_kinds else {}))
    else:
        _print_metrics(found, out)
        _print_kinds(grouped)
        typer.echo(f"Written to {out}: {', '.join([*FILES, *([f'{MAPS}/'] if keep_maps else [])])}")
    raise typer.Exit(3 if found.errors or serious else 0)


def _numbers_in(text: str) -> list[int]:
    """[0, 1, 2] of "0,1,2".

    Raises:
        UsageError: something in it is no whole number.
    """
    try:
        return [int(one) for one in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds takes whole numbers with commas between, such as 0,1,2; got {text!r}.") from error


def _print_data(chosen: Dataset, problems: Sequence[str]) -> None:
    """Counts per category, and what is wrong with the data set."""
    typer.echo(
        f"{printable(chosen.name)}: layout {chosen.layout}, {many(len(chosen), 'picture')}, "
        f"{many(len(chosen.categories), 'category', 'categories')}."
    )
    boxes = any(one.boxes for one in chosen.summary())
    rows = [
        {
            "category": one.category,
            "normal": one.normal,
            "anomalous": one.anomalous,
            "unlabelled": one.unlabelled,
            "masks": one.masks_found,
            "masks missing": one.masks_missing,
            **({"boxes": one.boxes} if boxes else {}),
        }
        for one in chosen.summary()
    ]
    typer.echo("\n".join(table(rows)))
    _print_some("Problems", problems, "")
    typer.echo("")


def _print_metrics(found: Evaluation, out: str) -> None:
    """The table, remarks, notes and errors."""
    typer.echo("\n".join(table(found.table(short=True))))
    typer.echo("")
    for line in found.remarks():
        typer.echo(printable(line))
    where = f" in {out}/metrics.json"
    _print_some("Notes", found.row_notes(), where)
    _print_some("Errors", found.errors, where)


def _print_kinds(rows: Sequence[KindsRow]) -> None:
    """Agreement of groups with labels, beside that of whole pictures."""
    lines = []
    for row in rows:
        whole = {f"{name} of pictures": f"{value:.3f}" for name, value in row.whole._asdict().items()}
        found = {name: f"{value:.3f}" for name, value in row.regions._asdict().items()}
        lines.append(
            {"category": row.category, "pictures": row.pictures, "kinds": row.kinds, "groups": row.groups} | found | whole
        )
    if lines:
        typer.echo("Kinds, found by grouping regions; beside them k-means on whole pictures, which is told how many there are:")
        typer.echo("\n".join([*table(lines), ""]))


def _print_some(title: str, lines: Sequence[str], where: str) -> None:
    """At most ``SHOWN`` lines."""
    for line in ([f"{title}:"] if lines else []) + [f"  {printable(one)}" for one in lines[:SHOWN]]:
        typer.echo(line)
    if len(lines) > SHOWN:
        typer.echo(f"  and {len(lines) - SHOWN} more{where}")
