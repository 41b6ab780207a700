"""The demo: see it, steer it, trust it. ``zsad demo`` starts it; from a checkout, ``python demo/app.py`` does too."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_TEMP_DIR", tempfile.mkdtemp(prefix="zsad-demo-"))  # read when gradio is imported

import gradio as gr  # noqa: E402
from zsad_demo import page  # noqa: E402
from zsad_demo.api import Endpoints  # noqa: E402
from zsad_demo.desks import Desks  # noqa: E402
from zsad_demo.events import Events  # noqa: E402
from zsad_demo.facts import offers  # noqa: E402
from zsad_demo.rules import polite  # noqa: E402
from zsad_demo.uploads import MEGABYTES  # noqa: E402
from zsad_demo.weights import load  # noqa: E402

EXAMPLES = {"brick": ("12 brick walls, 2 of them as references", 2), "solar-cells": ("12 solar cells", 0)}
KEPT = (60, 7200)  # seconds: how often, and from what age on, forgotten files are deleted
WAITING = 100  # events in the queue
M_ARENA_MAX = -8  # of mallopt, from malloc.h
CLICKED = "(...given) => [...given.slice(0, -1), Date.now()]"  # the last input is when the visitor clicked


def build(checkpoints: Sequence[str] = ()) -> gr.Blocks:
    """The page, ready to launch; ``checkpoints`` as for ``main``."""
    given = load(checkpoints)
    found = offers(given)
    desks = Desks(Path(os.environ["GRADIO_TEMP_DIR"]), given)
    examples = {key: (HERE / "examples" / key, count) for key, (_, count) in EXAMPLES.items()}
    examples = {key: one for key, one in examples.items() if one[0].is_dir()}  # a wheel has those of a permissive licence
    with gr.Blocks(title="zsad", analytics_enabled=False, delete_cache=KEPT, fill_width=True) as demo:
        Endpoints(desks, found).add()  # first, so that no event of the page takes their names
        gr.HTML(page.HEAD)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                ui = page.inputs(found, {key: EXAMPLES[key][0] for key in examples})
            with gr.Column(scale=9, min_width=320):
                page.outputs(ui)
        wire(ui, Events(ui, desks, found, examples))
        demo.unload(_closing(desks))
    demo.desks = desks
    return demo.queue(max_size=WAITING, default_concurrency_limit=8)


def _closing(desks: Desks) -> Callable[..., None]:
    def close(request: gr.Request) -> None:
        desks.close(str(request.session_hash))

    return close


def wire(ui: SimpleNamespace, do: Events) -> None:
    """Connects the components with what they do."""
    everything = [one for one in vars(ui).values() if not isinstance(one, dict)]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    model: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
    model |= {"show_progress": "minimal", "show_progress_on": [ui.status]}
    given = [ui.pictures, ui.target, ui.words, ui.references, ui.method, ui.agree, ui.clicked]

    ui.inspect.click(polite(do.inspect), given, everything, js=CLICKED, **model)
    for name, button in ui.examples.items():
        shown = button.click(_example(do, name), None, [ui.pictures, ui.references, ui.target, ui.status], **quiet)
        shown.then(polite(do.inspect), given, everything, js=CLICKED, **model)
    ui.stop.click(polite(do.stop), ui.clicked, None, js=CLICKED, queue=False, **quiet)
    for event in (ui.references.upload, ui.references.delete, ui.references.clear):
        event(polite(do.set_references), ui.references, everything, **model)
    for slider in (ui.anomalous, ui.review):
        slider.input(polite(do.level), [ui.anomalous, ui.review], everything, trigger_mode="always_last", **quiet)
    ui.automatic.click(polite(do.automatic), None, everything, **quiet)
    for table in (ui.gallery, ui.table):
        table.select(polite(do.select), None, everything, **quiet)
    ui.method.change(_noted(do), ui.method, [ui.method_note, ui.agree], **quiet)
    ui.draw.click(polite(do.draw), None, everything, **quiet)
    for button, handler, needs in (
        (ui.false_alarm, do.false_alarm, [ui.region]),
        (ui.miss, do.miss, [ui.editor]),
        (ui.undo, do.undo, []),
        (ui.calibrate, do.calibrate, [ui.normals, ui.share]),
        (ui.leave_out, do.leave_out, [ui.share]),
        (ui.effects_go, do.effects, []),
        (ui.compare, do.compare, [ui.first, ui.second]),
        (ui.zip, do.zip, []),
        (ui.log, do.log, []),
    ):
        button.click(polite(handler), needs, everything, **model)


def _example(do: Events, name: str) -> Callable[..., Any]:
    def example(request: gr.Request) -> Any:
        return do.example(name, request)

    return polite(example)


def _noted(do: Events) -> Callable[..., Any]:
    def noted(method: str) -> Any:
        offer = do.offers[method]
        label = f"Download {offer.download:.0f} MB now, once"
        return {do.ui.method_note: offer.note, do.ui.agree: gr.update(visible=bool(offer.download), value=False, label=label)}

    return noted


def _few_arenas() -> None:
    """Events run in many threads, and glibc would keep a heap of its own for each."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def main(
    host: str = "127.0.0.1", port: int = 7860, share: bool = False, mcp: bool = False, wait: bool = True,
    checkpoints: Sequence[str] = (),
) -> gr.Blocks:  # fmt: skip
    """Starts the server.

    Args:
        host: address to listen on; only this machine by default.
        port: of the server; 0 takes the first free one.
        share: makes a public link; off unless asked.
        mcp: serves the endpoints as MCP tools too.
        wait: returns only when it is stopped.
        checkpoints: learned weights that visitors may choose: "FILE" that zsad wrote, or "METHOD=FILE" of its authors.
    """
    _few_arenas()
    demo = build(checkpoints)
    css = (HERE / "zsad_demo" / "style.css").read_text(encoding="utf-8")
    try:
        demo.launch(
            server_name=host,
            server_port=port or None,
            share=share,
            mcp_server=mcp,
            prevent_thread_lock=not wait,
            quiet=not wait,
            theme=page.theme(),
            css=css,
            max_file_size=MEGABYTES * 1_000_000,
            allowed_paths=[],
            footer_links=["api"],
            ssr_mode=False,
            state_session_capacity=500,
            run_history=False,
        )
    finally:
        if wait:
            shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    return demo


if __name__ == "__main__":
    main()
