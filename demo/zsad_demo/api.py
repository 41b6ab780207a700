"""API endpoints with stable names, for ``gradio_client`` and, with ``--mcp``, as MCP tools. Every call is independent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gradio as gr

import zsad
from zsad_demo.checks import check_method, checked_words, errors_as_messages
from zsad_demo.inspectors import InspectorKey
from zsad_demo.methods import MethodOption
from zsad_demo.workspace import Workspace
from zsad_demo.workspaces import Workspaces


class Endpoints:
    """``/predict``, ``/calibrate``, ``/prompts`` and ``/methods``."""

    def __init__(self, workspaces: Workspaces, options: dict[str, MethodOption]) -> None:
        self.workspaces, self.options = workspaces, options

    def _key(self, method: str, target: str, words: str) -> InspectorKey:
        if method not in self.options:
            raise zsad.ZsadError(f"No method is called {method!r}. There are: {', '.join(self.options)}.")
        check_method(self.options[method], agreed=False)
        return InspectorKey(method, target.strip() or "object", checked_words(self.options[method], words))

    def predict(
        self, pictures: list[str], target: str = "object", references: list[str] | None = None, words: str = "",
        method: str = "compact",
    ) -> dict[str, Any]:  # fmt: skip
        """Scores pictures: anomaly score (higher is more anomalous), verdict, regions with box, area, peak and suggested word.

        Args:
            pictures: files, one or more; verdicts need at least 8.
            target: name of the object, such as "metal nut".
            references: files of up to 16 normal reference images.
            words: defect words, separated by commas, for methods that take them.
            method: a name that /methods lists.
        """
        workspace = Workspace(self.workspaces.inspectors)
        try:
            for _ in workspace.inspect(pictures, self._key(method, target, words), references, final=True):
                pass
            session = workspace.current()
            rows = [session.result(place).as_dict() for place in session.order]
            for row in rows:
                row["path"] = None  # of a copy that is deleted with the workspace
                row.pop("prompts")
            counts = Counter("error" if row["error"] else row["pred_label"] or "unlabelled" for row in rows)
            levels = vars(session.thresholds)
            return {"counts": dict(counts), "thresholds": levels, "refused": workspace.refused, "results": rows}
        finally:
            workspace.close()

    def calibrate(
        self, normals: list[str], references: list[str] | None = None, target: str = "object", words: str = "",
        method: str = "compact", max_false_alarms: float = 0.05,
    ) -> dict[str, Any]:  # fmt: skip
        """Thresholds from normal pictures, with a guaranteed false-alarm rate (split-conformal).

        Args:
            normals: files of normal pictures, none of them a reference image.
            references: files of normal reference images, as for /predict.
            target: as for /predict.
            words: as for /predict.
            method: as for /predict.
            max_false_alarms: share of normal pictures that may be called anomalous; raised to the lowest rate that so many
                pictures can guarantee.
        """
        workspace = Workspace(self.workspaces.inspectors)
        try:
            made = workspace.calibrate_alone(normals, self._key(method, target, words), references, max_false_alarms)
            levels = vars(made.thresholds())
            return {"thresholds": levels, "kind": made.kind, "normal": len(made), "refused": workspace.refused}
        finally:
            workspace.close()

    def prompts(self, target: str = "object", method: str = "compact") -> dict[str, Any]:
        """The exact text prompts that a method uses for an object's name, by class.

        Args:
            target: name of the object, such as "metal nut".
            method: a name that /methods lists.
        """
        sentences = self.workspaces.inspectors(self._key(method, target, "")).context.sentences
        return {kind: list(lines) for kind, lines in sentences.items()}

    def methods(self) -> list[dict[str, Any]]:
        """The methods: the weights that each needs, the size of a download, and whether it can be used on this server."""
        return [vars(one) for one in self.options.values()]

    def add(self) -> None:
        """Adds the endpoints to the page that is being built; they show nothing on it."""
        with gr.Row(visible=False):
            pictures, references, normals = (
                gr.File(file_count="multiple", label=one) for one in ("pictures", "references", "normals")
            )
            target, words = gr.Textbox("object", label="target"), gr.Textbox("", label="words")
            method, rate = gr.Textbox("compact", label="method"), gr.Number(0.05, label="max_false_alarms")
            answer, trigger = gr.JSON(label="answer"), gr.Button()

        def endpoint(call: Callable[..., Any], components: list[Any]) -> None:
            trigger.click(
                errors_as_messages(call), components, answer, api_name=call.__name__, api_description=call.__doc__,
                concurrency_id="model", concurrency_limit=1,
            )  # fmt: skip

        endpoint(self.predict, [pictures, target, references, words, method])
        endpoint(self.calibrate, [normals, references, target, words, method, rate])
        endpoint(self.prompts, [target, method])
        endpoint(self.methods, [])
