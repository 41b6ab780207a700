"""Endpoints with stable names, for ``gradio_client`` and, where it is switched on, for MCP. Each call stands alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gradio as gr

import zsad
from zsad_demo.desk import Desk, Key
from zsad_demo.desks import Desks
from zsad_demo.facts import Offer
from zsad_demo.rules import allowed, polite, words_for
from zsad_demo.uploads import PICTURES, take


class Endpoints:
    """``/predict``, ``/calibrate``, ``/prompts`` and ``/methods``."""

    def __init__(self, desks: Desks, offers: dict[str, Offer]) -> None:
        self.desks, self.offers = desks, offers

    def _key(self, method: str, target: str, words: str) -> Key:
        if method not in self.offers:
            raise zsad.ZsadError(f"No method is called {method!r}. There are: {', '.join(self.offers)}.")
        allowed(self.offers[method], agreed=False)
        return Key(method, target.strip() or "object", words_for(self.offers[method], words))

    def predict(
        self, pictures: list[str], target: str = "object", references: list[str] | None = None, words: str = "",
        method: str = "compact",
    ) -> dict[str, Any]:  # fmt: skip
        """Judges pictures: score (higher is more anomalous), verdict, regions with box, area, peak and suggested word.

        Args:
            pictures: files, one or more; at least 8 (or a calibration) are needed for verdicts.
            target: what is to be seen, such as "metal nut".
            references: files of up to 16 normal pictures to compare with.
            words: defect words between commas, for methods that take them.
            method: as /methods says.
        """
        desk = Desk(self.desks.models)
        try:
            for _ in desk.inspect(pictures, self._key(method, target, words), references):
                pass
            session = desk.opened()
            rows = [session.result(place).as_dict() for place in session.order]
            for row in rows:
                row["path"] = None  # of a copy that is gone by now
                row.pop("prompts")
            counts = Counter("error" if row["error"] else row["pred_label"] or "unlabelled" for row in rows)
            levels = vars(session.thresholds)
            return {"counts": dict(counts), "thresholds": levels, "refused": desk.refused, "results": rows}
        finally:
            desk.close()

    def calibrate(
        self, normals: list[str], references: list[str] | None = None, target: str = "object", words: str = "",
        method: str = "compact", max_false_alarms: float = 0.05,
    ) -> dict[str, Any]:  # fmt: skip
        """Levels that normal pictures promise (split-conformal), and the promise in words.

        Args:
            normals: files of normal pictures that are no references.
            references: files of normal pictures to compare with, as for /predict.
            target: as for /predict.
            words: as for /predict.
            method: as for /predict.
            max_false_alarms: share of normal pictures that may be called anomalous; raised to what so many can promise.
        """
        desk = Desk(self.desks.models)
        try:
            copies, refused = take(normals, desk.folder / "normals", PICTURES, "normal pictures")
            for _ in desk.inspect(copies, self._key(method, target, words), references):
                pass
            made = desk.calibrate(copies, max_false_alarms)
            return {"thresholds": vars(made.thresholds()), "kind": made.kind, "normal": len(made), "refused": refused}
        finally:
            desk.close()

    def prompts(self, target: str = "object", method: str = "compact") -> dict[str, Any]:
        """The exact sentences that a method uses for an object's name, by class of text.

        Args:
            target: what is to be seen.
            method: as /methods says.
        """
        sentences = self.desks.models(self._key(method, target, "")).context.sentences
        return {kind: list(lines) for kind, lines in sentences.items()}

    def methods(self) -> list[dict[str, Any]]:
        """The methods: what each needs, how large a download is, and whether it can be used here."""
        return [vars(one) for one in self.offers.values()]

    def add(self) -> None:
        """Puts the endpoints onto the page that is being built; they are not seen there."""
        with gr.Row(visible=False):
            pictures, references, normals = (
                gr.File(file_count="multiple", label=one) for one in ("pictures", "references", "normals")
            )
            target, words = gr.Textbox("object", label="target"), gr.Textbox("", label="words")
            method, share = gr.Textbox("compact", label="method"), gr.Number(0.05, label="max_false_alarms")
            answer, go = gr.JSON(label="answer"), gr.Button()

        def endpoint(call: Callable[..., Any], given: list[Any]) -> None:
            go.click(
                polite(call), given, answer, api_name=call.__name__, api_description=call.__doc__, concurrency_id="model",
                concurrency_limit=1,
            )  # fmt: skip

        endpoint(self.predict, [pictures, target, references, words, method])
        endpoint(self.calibrate, [normals, references, target, words, method, share])
        endpoint(self.prompts, [target, method])
        endpoint(self.methods, [])
