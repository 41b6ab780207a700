"""Event handlers of the page: each finds the visitor's workspace by the session, and returns the components that change."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

import zsad
from zsad_demo import prompt_effects, rendering
from zsad_demo.checks import check_method, checked_focus, checked_words
from zsad_demo.inspectors import InspectorKey
from zsad_demo.methods import MethodOption
from zsad_demo.uploads import Refused
from zsad_demo.workspace import Workspace
from zsad_demo.workspaces import Workspaces

Updates = dict[Any, Any]  # component -> its new value or properties


class Handlers:
    """Handlers of one page.

    Args:
        ui: its components.
        workspaces: of all visitors.
        options: the methods by name.
        examples: folder and number of references by name.
    """

    def __init__(
        self,
        ui: SimpleNamespace,
        workspaces: Workspaces,
        options: dict[str, MethodOption],
        examples: dict[str, tuple[Path, int]],
    ) -> None:
        self.ui, self.workspaces, self.options, self.examples = ui, workspaces, options, examples

    # ------------------------------------------------------------------ what is shown
    def batch(self, workspace: Workspace) -> Updates:
        """Verdicts, thresholds, gallery and table."""
        ui, session = self.ui, workspace.current()
        labels, levels = rendering.labels_of(session), session.thresholds
        known = [one.score for one in session.scored if one.score is not None]
        low, high = session.inspector.detector.map_range
        ends = [*known, low, high, *(one for one in (levels.anomalous, levels.review) if one is not None)]
        bounds = {"minimum": round(min(ends), 3), "maximum": round(max(ends) * 1.05, 3)}
        anomalous = levels.anomalous if levels.anomalous is not None else bounds["maximum"]
        review = levels.review if levels.review is not None else anomalous
        return {
            ui.status: rendering.summary(session, labels, workspace.refused),
            ui.anomalous: gr.update(value=round(anomalous, 3), **bounds),
            ui.review: gr.update(value=round(review, 3), **bounds),
            ui.gallery: gr.update(value=rendering.gallery(workspace, session, labels), selected_index=None),
            ui.table: rendering.rows(session, labels),
        }

    def selection(self, workspace: Workspace) -> Updates:
        """The selected picture."""
        ui, session = self.ui, workspace.current()
        result = session.result(workspace.selected)
        regions = rendering.regions_of(result)
        return {
            ui.slider: rendering.pair(workspace, result),
            ui.details: rendering.details(result, session.inspector.detector.map_range),
            ui.region: gr.update(choices=regions, value=0 if regions else None, visible=bool(regions)),
            ui.false_alarm: gr.update(visible=bool(regions)),
            ui.draw: gr.update(visible=result.error is None),
            ui.undo: gr.update(visible=bool(session.corrections)),
            ui.prompts: rendering.prompts(result),
            ui.editor: gr.update(visible=False, value=None),
            ui.miss: gr.update(visible=False),
            ui.explanation: "",
        }

    def all(self, workspace: Workspace) -> Updates:
        """Both."""
        return self.batch(workspace) | self.selection(workspace)

    # ------------------------------------------------------------------ inspection
    def inspect(
        self, files: list[str], target: str, words: str, focus: str, ignored: str, references: list[str], method: str,
        agreed: bool, clicked: float, request: gr.Request,
    ) -> Iterator[Updates]:  # fmt: skip
        option = self.options[method]
        check_method(option, agreed)
        workspace = self.workspaces(request.session_hash, [*(files or ()), *(references or ())])
        if option.target is not None:  # the fields are not shown
            target, words, focus, ignored, references = option.target, "", "", "", []
        steered = checked_focus(option, focus), checked_focus(option, ignored)
        key = InspectorKey(method, target.strip() or "object", checked_words(option, words), *steered)
        yield {self.ui.status: _progress("Loading the model")}
        for done, total in workspace.inspect(files, key, references):
            if workspace.stopped >= clicked:  # returning leaves the page as it is; Gradio's cancels= leaves an error on it
                yield self._after_stop(workspace)
                return
            yield {self.ui.status: _progress(f"{done} of {total} picture{'s' * (total != 1)}", done / total)}
        with workspace.lock:  # the kinds were those of the earlier pictures
            yield self.all(workspace) | {self.ui.kinds: "", self.ui.kind: gr.update(choices=[], value=None)}

    def stop(self, clicked: float, request: gr.Request) -> None:
        self.workspaces(request.session_hash).stopped = clicked

    def _after_stop(self, workspace: Workspace) -> Updates:
        if workspace.session is None:
            return {self.ui.status: "<div class='summary'><p class='soft'>Stopped. Nothing was changed.</p></div>"}
        return self.batch(workspace)

    def example(self, name: str, request: gr.Request) -> Updates:
        folder, count = self.examples[name]
        workspace = self.workspaces(request.session_hash)
        found = sorted(path for path in folder.iterdir() if path.suffix == ".png")
        copies = [_copied(path, workspace.folder / "example") for path in found]
        target = name.replace("-", " ").removesuffix("s")
        return {
            self.ui.pictures: [str(path) for path in copies[count:]],
            self.ui.references: [str(path) for path in copies[:count]] or None,
            self.ui.target: target,
        }

    def set_references(self, files: list[str], request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash, files)
        if workspace.session is None:
            return {self.ui.status: gr.skip()}
        with workspace.lock:
            workspace.set_references(files)
            return self.all(workspace)

    def show_method(self, method: str) -> Updates:
        option = self.options[method]
        consent = gr.update(visible=bool(option.download), value=False, label=option.consent)
        updates: Updates = {self.ui.method_note: option.note, self.ui.agree: consent}
        updates |= {one: gr.update(visible=option.target is None) for one in self.ui.inside}
        named = {} if option.target is None else {"value": option.target}
        return updates | {self.ui.target: gr.update(interactive=option.target is None, **named)}

    # ------------------------------------------------------------------ thresholds
    def set_thresholds(self, anomalous: float, review: float, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            workspace.current().set_threshold(anomalous, min(review, anomalous))
            updates = self.all(workspace)
            return {key: one for key, one in updates.items() if key not in (self.ui.anomalous, self.ui.review)}

    def reset_thresholds(self, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            workspace.current().set_threshold(None)
            return self.all(workspace)

    def calibrate(self, files: list[str], max_false_alarms: float, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash, files)
        with workspace.lock:
            made = workspace.calibrate(files, max_false_alarms)
            return self.all(workspace) | {self.ui.calibration: _calibrated(made)}

    def leave_one_out(self, max_false_alarms: float, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            made = workspace.leave_one_out(max_false_alarms)
            return self.all(workspace) | {self.ui.calibration: _calibrated(made)}

    # ------------------------------------------------------------------ one picture
    def select(self, event: gr.SelectData, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            session = workspace.current()
            if isinstance(event.index, int):  # of the gallery
                workspace.selected = session.order[event.index]
            else:
                names = [one.name for one in session.scored]
                workspace.selected = names.index(event.row_value[rendering.COLUMNS.index("Picture")])
            return self.selection(workspace)

    def false_alarm(self, region: int | None, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            session = workspace.current()
            regions = session.result(workspace.selected).regions
            if region is None or not 0 <= region < len(regions):
                raise Refused("No region is selected. Select the one that is a false alarm.")
            session.false_alarm(workspace.selected, regions[region])
            return self.all(workspace)

    def draw(self, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            shown = rendering.pair(workspace, workspace.current().result(workspace.selected))
        return {self.ui.editor: gr.update(value=shown and shown[0], visible=True), self.ui.miss: gr.update(visible=True)}

    def miss(self, drawing: dict[str, Any] | None, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        layers = [np.asarray(one)[..., -1] > 0 for one in (drawing or {}).get("layers") or () if one is not None]
        if not layers or not any(layer.any() for layer in layers):
            raise Refused("Nothing is drawn. Draw over the missed defect first.")
        with workspace.lock:
            session = workspace.current()
            height, width = session.result(workspace.selected).image.shape[:2]
            drawn = Image.fromarray(np.logical_or.reduce(layers).astype(np.uint8)).resize(
                (width, height), Image.Resampling.NEAREST
            )
            session.miss(workspace.selected, np.asarray(drawn))
            return self.all(workspace)

    def undo(self, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            workspace.current().undo()
            return self.all(workspace)

    # ------------------------------------------------------------------ prompt effects, files
    def effects(self, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            return {self.ui.effects: prompt_effects.effects_table(workspace)}

    def compare(self, first: str, second: str, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            return {self.ui.compared: prompt_effects.compare(workspace, first, second)}

    def zip(self, request: gr.Request) -> Updates:
        workspace = self.workspaces(request.session_hash)
        with workspace.lock:
            return {self.ui.file: str(workspace.results_zip())}

    def log(self, request: gr.Request) -> Updates:
        return {self.ui.file: str(self.workspaces(request.session_hash).log_file())}


def _progress(text: str, share: float = 0.0) -> str:
    return f"<div class='summary'><p>{text} …</p><progress value='{share:.3f}' max='1' style='width:100%'></progress></div>"


def _calibrated(made: zsad.Calibration) -> str:
    levels = made.thresholds()
    return (
        f"<div class='summary'><p class='false-alarms'>Calibrated: {escape(levels.source)}.</p><p class='soft'>Anomaly "
        f"threshold {levels.anomalous:.3f}, review threshold {levels.review:.3f}.</p></div>"
    )


def _copied(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    target.write_bytes(path.read_bytes())
    return target
