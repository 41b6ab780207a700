"""What the page does: every handler finds its visitor's desk by the session, and returns what changed."""

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
from zsad_demo import lab, views
from zsad_demo.desk import Desk, Key
from zsad_demo.desks import Desks
from zsad_demo.facts import Offer
from zsad_demo.rules import allowed, words_for
from zsad_demo.uploads import Refused

Updates = dict[Any, Any]


class Events:
    """Handlers of one page.

    Args:
        ui: its components.
        desks: of all visitors.
        offers: the methods.
        examples: folder and number of references by name.
    """

    def __init__(
        self, ui: SimpleNamespace, desks: Desks, offers: dict[str, Offer], examples: dict[str, tuple[Path, int]]
    ) -> None:
        self.ui, self.desks, self.offers, self.examples = ui, desks, offers, examples

    # ------------------------------------------------------------------ what is shown
    def batch(self, desk: Desk) -> Updates:
        """Verdicts, levels, gallery and table of now."""
        ui, session = self.ui, desk.opened()
        labels, levels = views.labels_of(session), session.thresholds
        known = [one.score for one in session.scored if one.score is not None]
        low, high = session.inspector.detector.map_range
        ends = [*known, low, high, *(one for one in (levels.anomalous, levels.review) if one is not None)]
        bounds = {"minimum": round(min(ends), 3), "maximum": round(max(ends) * 1.05, 3)}
        anomalous = levels.anomalous if levels.anomalous is not None else bounds["maximum"]
        review = levels.review if levels.review is not None else anomalous
        return {
            ui.status: views.summary(session, labels, desk.refused),
            ui.anomalous: gr.update(value=round(anomalous, 3), **bounds),
            ui.review: gr.update(value=round(review, 3), **bounds),
            ui.gallery: gr.update(value=views.gallery(desk, session, labels), selected_index=None),
            ui.table: views.rows(session, labels),
        }

    def detail(self, desk: Desk) -> Updates:
        """The selected picture."""
        ui, session = self.ui, desk.opened()
        result = session.result(desk.selected)
        regions = views.regions_of(result)
        return {
            ui.slider: views.pair(desk, result),
            ui.facts: views.facts(result, session.inspector.detector.map_range),
            ui.region: gr.update(choices=regions, value=0 if regions else None, visible=bool(regions)),
            ui.false_alarm: gr.update(visible=bool(regions)),
            ui.draw: gr.update(visible=result.error is None),
            ui.undo: gr.update(visible=bool(session.marks)),
            ui.prompts: views.prompts(result),
            ui.editor: gr.update(visible=False, value=None),
            ui.miss: gr.update(visible=False),
        }

    def all(self, desk: Desk) -> Updates:
        return self.batch(desk) | self.detail(desk)

    # ------------------------------------------------------------------ inspect
    def inspect(
        self, files: list[str], target: str, words: str, references: list[str], method: str, agreed: bool, clicked: float,
        request: gr.Request,
    ) -> Iterator[Updates]:  # fmt: skip
        offer = self.offers[method]
        allowed(offer, agreed)
        desk = self.desks(request.session_hash, [*(files or ()), *(references or ())])
        key = Key(method, target.strip() or "object", words_for(offer, words))
        yield {self.ui.status: _working("Loading the model")}
        for done, total in desk.inspect(files, key, references):
            if desk.stopped >= clicked:  # ending by itself leaves the page as it is; Gradio's cancels= leaves an error on it
                yield self._after_stop(desk)
                return
            yield {self.ui.status: _working(f"{done} of {total} picture{'s' * (total != 1)}", done / total)}
        with desk.lock:
            yield self.all(desk)

    def stop(self, clicked: float, request: gr.Request) -> None:
        self.desks(request.session_hash).stopped = clicked

    def _after_stop(self, desk: Desk) -> Updates:
        if desk.session is None:
            return {self.ui.status: "<div class='summary'><p class='soft'>Stopped. Nothing was changed.</p></div>"}
        return self.batch(desk)

    def example(self, name: str, request: gr.Request) -> Updates:
        folder, count = self.examples[name]
        desk = self.desks(request.session_hash)
        found = sorted(path for path in folder.iterdir() if path.suffix == ".png")
        copies = [_copied(path, desk.folder / "example") for path in found]
        target = name.replace("-", " ").removesuffix("s")
        return {
            self.ui.pictures: [str(path) for path in copies[count:]],
            self.ui.references: [str(path) for path in copies[:count]] or None,
            self.ui.target: target,
        }

    def set_references(self, files: list[str], request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash, files)
        if desk.session is None:
            return {self.ui.status: gr.skip()}
        with desk.lock:
            desk.set_references(files)
            return self.all(desk)

    # ------------------------------------------------------------------ levels
    def level(self, anomalous: float, review: float, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            desk.opened().set_threshold(anomalous, min(review, anomalous))
            return {key: one for key, one in self.all(desk).items() if key not in (self.ui.anomalous, self.ui.review)}

    def automatic(self, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            desk.opened().set_threshold(None)
            return self.all(desk)

    def calibrate(self, files: list[str], share: float, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash, files)
        with desk.lock:
            made = desk.calibrate(files, share)
            return self.all(desk) | {self.ui.promise: _promise(made)}

    def leave_out(self, share: float, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            made = desk.leave_one_out(share)
            return self.all(desk) | {self.ui.promise: _promise(made)}

    # ------------------------------------------------------------------ one picture
    def select(self, event: gr.SelectData, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            session = desk.opened()
            if isinstance(event.index, int):  # of the gallery
                desk.selected = session.order[event.index]
            else:
                names = [one.name for one in session.scored]
                desk.selected = names.index(event.row_value[views.COLUMNS.index("Picture")])
            return self.detail(desk)

    def false_alarm(self, region: int | None, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            session = desk.opened()
            regions = session.result(desk.selected).regions
            if region is None or not 0 <= region < len(regions):
                raise Refused("No region is chosen. Choose the one that is a false alarm.")
            session.false_alarm(desk.selected, regions[region])
            return self.all(desk)

    def draw(self, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            shown = views.pair(desk, desk.opened().result(desk.selected))
        return {self.ui.editor: gr.update(value=shown and shown[0], visible=True), self.ui.miss: gr.update(visible=True)}

    def miss(self, drawing: dict[str, Any] | None, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        layers = [np.asarray(one)[..., -1] > 0 for one in (drawing or {}).get("layers") or () if one is not None]
        if not layers or not any(layer.any() for layer in layers):
            raise Refused("Nothing is drawn. Draw over the defect first.")
        with desk.lock:
            session = desk.opened()
            height, width = session.result(desk.selected).image.shape[:2]
            drawn = Image.fromarray(np.logical_or.reduce(layers).astype(np.uint8)).resize(
                (width, height), Image.Resampling.NEAREST
            )
            session.miss(desk.selected, np.asarray(drawn))
            return self.all(desk)

    def undo(self, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            desk.opened().undo()
            return self.all(desk)

    # ------------------------------------------------------------------ lab and files
    def effects(self, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            return {self.ui.effects: lab.effects(desk)}

    def compare(self, first: str, second: str, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            return {self.ui.compared: lab.compare(desk, first, second)}

    def zip(self, request: gr.Request) -> Updates:
        desk = self.desks(request.session_hash)
        with desk.lock:
            return {self.ui.file: str(desk.zipped())}

    def log(self, request: gr.Request) -> Updates:
        return {self.ui.file: str(self.desks(request.session_hash).log_file())}


def _working(said: str, share: float = 0.0) -> str:
    return f"<div class='summary'><p>{said} …</p><progress value='{share:.3f}' max='1' style='width:100%'></progress></div>"


def _promise(made: zsad.Calibration) -> str:
    levels = made.thresholds()
    return (
        f"<div class='summary'><p class='promise'>{escape(levels.source)}.</p><p class='soft'>Anomalous from "
        f"{levels.anomalous:.3f}, review from {levels.review:.3f}.</p></div>"
    )


def _copied(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    target.write_bytes(path.read_bytes())
    return target
