"""The demo, a Gradio app. ``zsad demo`` starts it; from a checkout, ``python demo/app.py`` does too."""

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
from zsad_demo import layout  # noqa: E402
from zsad_demo.api import Endpoints  # noqa: E402
from zsad_demo.checkpoints import load  # noqa: E402
from zsad_demo.checks import errors_as_messages  # noqa: E402
from zsad_demo.handlers import Handlers  # noqa: E402
from zsad_demo.language import Explainer, LanguageHandlers  # noqa: E402
from zsad_demo.methods import method_options  # noqa: E402
from zsad_demo.uploads import MEGABYTES  # noqa: E402
from zsad_demo.workspaces import Workspaces  # noqa: E402

EXAMPLES = {"brick": ("12 brick walls, 2 of them as references", 2), "solar-cells": ("12 solar cells", 0)}
DELETE_CACHE = (60, 7200)  # seconds: how often, and from what age on, files that were left behind are deleted
QUEUE_SIZE = 100  # events in the queue
M_ARENA_MAX = -8  # of mallopt, from malloc.h
CLICKED = "(...inputs) => [...inputs.slice(0, -1), Date.now()]"  # the last input is the time of the click, ms


def build(checkpoints: Sequence[str] = (), explainer: Explainer | None = None) -> gr.Blocks:
    """The page, ready to launch; ``checkpoints`` as for ``main``, ``explainer``: the model that is asked about pictures."""
    loaded = load(checkpoints)
    options = method_options(loaded)
    workspaces = Workspaces(Path(os.environ["GRADIO_TEMP_DIR"]), loaded)
    examples = {key: (HERE / "examples" / key, count) for key, (_, count) in EXAMPLES.items()}
    examples = {key: one for key, one in examples.items() if one[0].is_dir()}  # a wheel has those of a permissive licence
    with gr.Blocks(title="zsad", analytics_enabled=False, delete_cache=DELETE_CACHE, fill_width=True) as demo:
        Endpoints(workspaces, options).add()  # first, so that no event of the page takes their names
        gr.HTML(layout.HEAD)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                ui = layout.inputs(options, {key: EXAMPLES[key][0] for key in examples})
            with gr.Column(scale=9, min_width=320):
                layout.outputs(ui, explainer.label if explainer else "")
        connect(ui, Handlers(ui, workspaces, options, examples), LanguageHandlers(ui, workspaces, explainer))
        demo.unload(_on_unload(workspaces))
    demo.workspaces = workspaces
    return demo.queue(max_size=QUEUE_SIZE, default_concurrency_limit=8)


def _on_unload(workspaces: Workspaces) -> Callable[..., None]:
    def close(request: gr.Request) -> None:
        workspaces.close(str(request.session_hash))

    return close


def connect(ui: SimpleNamespace, handlers: Handlers, language: LanguageHandlers) -> None:
    """Connects the components' events with their handlers."""
    everything = [one for one in vars(ui).values() if not isinstance(one, dict | list)]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    model: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
    model |= {"show_progress": "minimal", "show_progress_on": [ui.status]}
    request = [ui.pictures, ui.target, ui.words, ui.focus, ui.ignored, ui.references, ui.method, ui.agree, ui.clicked]
    inspect = errors_as_messages(handlers.inspect)

    ui.inspect.click(inspect, request, everything, js=CLICKED, **model)
    for name, button in ui.examples.items():
        loaded = button.click(_example(handlers, name), None, [ui.pictures, ui.references, ui.target, ui.status], **quiet)
        loaded.then(inspect, request, everything, js=CLICKED, **model)
    ui.stop.click(errors_as_messages(handlers.stop), ui.clicked, None, js=CLICKED, queue=False, **quiet)
    for event in (ui.references.upload, ui.references.delete, ui.references.clear):
        event(errors_as_messages(handlers.set_references), ui.references, everything, **model)
    for slider in (ui.anomalous, ui.review):
        set_thresholds = errors_as_messages(handlers.set_thresholds)
        slider.input(set_thresholds, [ui.anomalous, ui.review], everything, trigger_mode="always_last", **quiet)
    ui.reset.click(errors_as_messages(handlers.reset_thresholds), None, everything, **quiet)
    for table in (ui.gallery, ui.table):
        table.select(errors_as_messages(handlers.select), None, everything, **quiet)
    ui.method.change(handlers.show_method, ui.method, [ui.method_note, ui.agree, ui.target, *ui.inside], **quiet)
    ui.draw.click(errors_as_messages(handlers.draw), None, everything, **quiet)
    explained = {"show_progress": "minimal", "show_progress_on": [ui.explanation]}  # not behind others' inspections
    ui.explain.click(errors_as_messages(language.explain), None, everything, api_visibility="private", **explained)
    for button, handler, needs in (
        (ui.false_alarm, handlers.false_alarm, [ui.region]),
        (ui.miss, handlers.miss, [ui.editor]),
        (ui.undo, handlers.undo, []),
        (ui.calibrate, handlers.calibrate, [ui.normals, ui.max_false_alarms]),
        (ui.leave_one_out, handlers.leave_one_out, [ui.max_false_alarms]),
        (ui.show_effects, handlers.effects, []),
        (ui.compare, handlers.compare, [ui.first, ui.second]),
        (ui.group, language.group, [ui.number]),
        (ui.rename, language.rename, [ui.kind, ui.kind_name]),
        (ui.zip, handlers.zip, []),
        (ui.log, handlers.log, []),
    ):
        button.click(errors_as_messages(handler), needs, everything, **model)


def _example(handlers: Handlers, name: str) -> Callable[..., Any]:
    def example(request: gr.Request) -> Any:
        return handlers.example(name, request)

    return errors_as_messages(example)


def _limit_arenas() -> None:
    """Limits glibc's heaps (arenas) to two: handlers run in many threads, and each would get its own."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def main(
    host: str = "127.0.0.1", port: int = 7860, share: bool = False, mcp: bool = False, wait: bool = True,
    checkpoints: Sequence[str] = (), endpoint: str | None = None, model: str | None = None,
) -> gr.Blocks:  # fmt: skip
    """Starts the server.

    Args:
        host: address to listen on; only this machine by default.
        port: of the server; 0 takes the first free one.
        share: makes a public link through a server of Gradio's.
        mcp: serves the endpoints as MCP tools too.
        wait: returns only when the server is stopped.
        checkpoints: learned weights that visitors may choose: "FILE" that zsad wrote, or "METHOD=FILE" of a method's authors;
            or a folder that ``zsad export`` wrote.
        endpoint: address of an OpenAI-compatible server that visitors may ask about a picture; None: there is none.
        model: the model's name there.
    """
    _limit_arenas()
    demo = build(checkpoints, Explainer(model, endpoint) if model and endpoint else None)
    css = (HERE / "zsad_demo" / "style.css").read_text(encoding="utf-8")
    try:
        demo.launch(
            server_name=host,
            server_port=port or None,
            share=share,
            mcp_server=mcp,
            prevent_thread_lock=not wait,
            quiet=not wait,
            theme=layout.theme(),
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
