"""Kinds of anomalies, and what a vision-language model says about the selected picture."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from types import SimpleNamespace
from typing import Any

import gradio as gr

from zsad.images.urls import without_keys
from zsad.runs.explain_report import as_lines
from zsad_demo.uploads import Refused
from zsad_demo.workspace import Workspace
from zsad_demo.workspaces import Workspaces


@dataclass(frozen=True)
class Explainer:
    """The model that the operator of the page chose; visitors cannot give an address.

    Attributes:
        model: its name at the endpoint.
        endpoint: address of an OpenAI-compatible server.
    """

    model: str
    endpoint: str

    @property
    def label(self) -> str:
        """Who is asked, and where the picture goes."""
        return f"{self.model} what it sees (the picture goes to {without_keys(self.endpoint)})"


class LanguageHandlers:
    """Handlers of the tab "Kinds" and of the button that asks a model.

    Args:
        ui: the page's components.
        workspaces: of all visitors.
        explainer: the model; None: there is none.
    """

    def __init__(self, ui: SimpleNamespace, workspaces: Workspaces, explainer: Explainer | None) -> None:
        self.ui, self.workspaces, self.explainer = ui, workspaces, explainer

    def group(self, number: float | None, request: gr.Request) -> dict[Any, Any]:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            return self._shown(*workspace.group(int(number or 0) or None))

    def rename(self, kind: str | None, name: str, request: gr.Request) -> dict[Any, Any]:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            return self._shown(*workspace.rename(kind, name))

    def _shown(self, sheets: str, names: list[str]) -> dict[Any, Any]:
        return {self.ui.kinds: sheets, self.ui.kind: gr.update(choices=names, value=names[0] if names else None)}

    def explain(self, request: gr.Request) -> dict[Any, Any]:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            return {self.ui.explanation: explanation(workspace, self.explainer)}


def explanation(workspace: Workspace, explainer: Explainer | None) -> str:
    """What the model says about the selected picture, as HTML; marked as unchecked words that change no verdict."""
    if explainer is None:
        raise Refused("No model was given to this page. Its operator starts it with zsad demo --endpoint URL --model NAME.")
    session = workspace.current()
    result = session.result(workspace.selected)
    if result.error:
        raise Refused(f"{result.name} could not be scored, so there is nothing to explain: {result.error}")
    (found,) = session.inspector.explain([result], model=explainer.model, endpoint=explainer.endpoint, every=True)
    said = found.explanation or {}
    lines = "".join(f"<p>{escape(line)}</p>" for line in as_lines(said))
    against = "<p role='alert'><b>Disagrees with the verdict.</b></p>" if said["disagrees"] else ""
    words = f"<p class='soft'>Words of {escape(said['model'])}, not checked. They change no verdict.</p>"
    return f"<div class='details'>{against}{lines}{words}</div>"
