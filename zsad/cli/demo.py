"""``zsad demo``: a web page for people."""

from __future__ import annotations

import importlib.util
import runpy
from typing import Annotated

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.options import Endpoint
from zsad.common.assets import asset
from zsad.errors import MissingExtra, UsageError


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def demo(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes the first free one from 7860 on.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Make a public link, through a server of Gradio's.")] = False,
    mcp: Annotated[bool, typer.Option("--mcp", help="Serve the endpoints as MCP tools too.")] = False,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Learned weights to offer: a FILE of zsad, METHOD=FILE of its authors, or an exported model/; repeat for more."
        ),
    ] = None,
    endpoint: Endpoint = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model at --endpoint, which visitors may ask about a picture.")
    ] = None,
) -> None:
    """Serves a page on this machine: drop pictures, see verdicts, steer and correct them."""
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("zsad demo", "demo")
    if mcp and importlib.util.find_spec("mcp") is None:
        raise MissingExtra("zsad demo --mcp", "mcp")
    if (endpoint is None) != (model is None):
        raise UsageError("Of --endpoint and --model one was given without the other. Give both: an address, and a name there.")
    serve = runpy.run_path(str(asset("demo/app.py")), run_name="zsad_demo_app")["main"]
    serve(host, port, share, mcp, checkpoints=checkpoint or (), endpoint=endpoint, model=model)
