"""``zsad report``: the table of ``zsad predict --engine`` as a page and in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.options import Json, LimitReport
from zsad.common.file_names import many
from zsad.distributed.report import report_of
from zsad.runs.summary import verdict_line


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def report(
    table: Annotated[str, typer.Argument(help="The --out of zsad predict --engine: a folder or an address.")],
    out: Annotated[Path, typer.Option(help="File of the report.")] = Path("report.html"),
    limit_report: LimitReport = 500,
    as_json: Json = False,
) -> None:
    """Writes the worst pictures of a table as one page, and prints counts, a histogram of the scores and errors by kind."""
    found = report_of(table, out, limit_report)
    if as_json:
        return print_json(found.as_dict() | {"histogram": found.histogram})
    typer.echo(f"{verdict_line(found.counts, found.thresholds.false_alarm_rate)}.")
    most = max((count for _, count in found.histogram), default=0)
    for low, count in found.histogram:
        typer.echo(f"{low:10.4g}  {count:10d}  {'#' * round(50 * count / most)}".rstrip())
    for kind, number in found.errors.most_common():
        typer.echo(f"Error of {many(number, 'picture')}: {kind}.")
    typer.echo(f"Written to {out}")
