"""``zsad verify``: methods beside the stored outputs of their authors' code, exported models beside their methods."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.app import app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.export import show
from zsad.cli.options import Json
from zsad.errors import MissingExtra, UsageError
from zsad.exports import is_folder, verify_export

if TYPE_CHECKING:
    from zsad.verification import Verification


@app.command(epilog="Exit codes: 0 all outputs within their tolerances, 1 one is not, 2 wrong usage.")
@sentence_on_error
def verify(
    method: Annotated[str | None, typer.Argument(help="Only this one, or the folder of an exported model.")] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder of stored outputs, in place of those that come with the package.")
    ] = None,
    pictures: Annotated[str | None, typer.Option(help="Of an exported model: what both are compared on.")] = None,
    as_json: Json = False,
) -> None:
    """Checks that methods equal their authors' code: same weights, same pictures, outputs beside the stored ones.

    Small seeded weights are generated, so nothing is downloaded. A line per method shows, per kind of output, the
    worst difference and its tolerance ("rel": as a share of the stored value).

    Of an exported model it makes certificate.json anew on this machine: the model beside the method in torch.
    """
    if method and is_folder(method):
        return _verify_export(method, pictures, as_json)
    if pictures is not None:
        raise UsageError("--pictures is for the folder of an exported model: zsad verify model/ --pictures DIR.")
    from zsad.verification import list_proofs
    from zsad.verification import verify as run

    found = []
    for name in [method] if method else list_proofs():
        try:
            found.append(run(name, references))
        except MissingExtra as error:
            if method:
                raise
            typer.echo(f"{name:12} not run: {error}", err=True)
            continue
        if not as_json:
            typer.echo(_line(found[-1]))
    passed = all(one.passed for one in found)
    if as_json:
        print_json({"passed": passed, "methods": [one.as_dict() for one in found]})
    raise typer.Exit(0 if passed else 1)


def _verify_export(folder: str, pictures: str | None, as_json: bool) -> None:
    made = verify_export(folder, pictures)
    if as_json:
        print_json(asdict(made))
    else:
        show(made)
    raise typer.Exit(0 if made.passed else 1)


def _line(found: Verification) -> str:
    """``winclip      equal   features 1.7e-06 (1e-05), maps 7e-07 (2e-05) ...; 53 outputs, 2.1 s``."""
    facts = found.as_dict()
    kinds = [
        f"{kind} {one['worst_difference']:.1e} ({one['tolerance']:.0e}{' rel' if one['relative'] else ''})"
        for kind, one in facts["kinds"].items()
        if one["tolerance"] or one["worst_difference"]
    ]
    lines = [
        f"{found.method:12} {'equal' if found.passed else 'DIFFERS':7} {', '.join(kinds)}; "
        f"{len(found.comparisons)} outputs, {found.seconds:.1f} s"
    ]
    if facts["beyond_tolerance"]:
        lines.append(f"{'':12} beyond the tolerance: {', '.join(facts['beyond_tolerance'])}")
    if found.missing:
        lines.append(f"{'':12} stored, but not compared: {', '.join(found.missing)}")
    return "\n".join(lines)
