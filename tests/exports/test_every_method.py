"""Every registered method becomes a graph that scores as it does, or says in a sentence of its own why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_methods import shallow, tiny_method

import zsad
from zsad.errors import UsageError
from zsad.exports.graph import FEATURES, SCORES, Graph
from zsad.exports.sessions import open_session
from zsad.exports.writing import MODEL, save_onnx, trace
from zsad.inference.inspector import Inspector
from zsad.verification.tiny_pictures import tiny_pictures

ONCE = {"taps": (1, 2)}  # of two layers, each once: the default's four taps are the first layer three times
# an operation takes the tracer five milliseconds; these say nothing of a second layer that others do not say with theirs
ONE_LAYER = {"dictas", "filo", "laft", "sowa", "winclip"}
SMALLER: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("adaptclip", "april_gan", "crane", "musc", "subspacead"), ONCE),
    **{name: {"taps": (1,)} for name in ("dictas", "filo", "sowa")},
    "compact": {"tower": "small"},
    "laft": {"scales": (2,)},
}
EXPORTED_FORM: dict[str, dict[str, Any]] = {
    "adaclip": {"use_hsf": False} | ONCE,
    "anovl": {"views": False},
}  # not the usual one
REFUSED = {
    "adaclip": "k-means clusters",
    "anomaly_ov": "resized to a square",
    "anovl": "22 views",
    "clap": "learns from every picture by gradient steps",
    "inp_former": "resized to a square",
    "metauas": "resized to a square",
}
KNOWN = Path(__file__).parent / "operations.txt"  # were written as ONNX and run with the same outputs; others are here
FORMS: list[tuple[str, dict[str, Any], str]] = [
    *[(name, SMALLER.get(name, {}), "") for name in zsad.list_methods()],
    *[(name, arguments, "") for name, arguments in EXPORTED_FORM.items()],
    ("winclip", {"scales": (2,)}, "references"),
    ("april_gan", ONCE, "references"),
    ("compact", SMALLER["compact"], "batch"),
]


def graph_of(method: str, arguments: dict[str, Any], how: str) -> Graph:
    """The method on its tower, with references where it needs them or is to have some."""
    detector = tiny_method(method, **arguments)
    count = max(detector.needs_references, 2 if how == "references" else 0)
    references = list(tiny_pictures(3, [False] * count)[0]) if count else None
    inspector = Inspector(detector, "nut", references=references, device="cpu", batch=how == "batch" or "off")
    if inspector.needs_set:
        inspector.detector = inspector.detector.as_batch(inspector.context) or inspector.detector
    if reason := inspector.detector.why_not_exported:
        raise UsageError(f"{method} cannot be exported: {reason}")
    return Graph(inspector.detector, inspector.context, FEATURES if inspector.needs_set else SCORES)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "arguments", "how"), FORMS)
def test_a_method_is_exported_or_refused(
    method: str, arguments: dict[str, Any], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow(monkeypatch, layers=1 if method in ONE_LAYER else 2)
    if method in REFUSED and arguments != EXPORTED_FORM.get(method):
        with pytest.raises(UsageError, match=rf"^{method} cannot be exported: .*{REFUSED[method]}.*Run it in torch"):
            trace(graph_of(method, arguments, how))
        return
    graph = graph_of(method, arguments, how)
    program = trace(graph)
    pixels = graph.example(3)  # it was traced with two
    with torch.no_grad():
        own, found = graph(pixels), dict(zip(graph.names, program.module()(pixels), strict=True))
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    if operations - set(KNOWN.read_text().splitlines()):
        save_onnx(program, graph, path := tmp_path / MODEL["onnx"])
        found |= {key: torch.from_numpy(one) for key, one in run(path, graph, pixels).items()}
    for name, expected in zip(graph.names, own, strict=True):
        assert found[name].shape == expected.shape
        torch.testing.assert_close(found[name], expected, atol=1e-4 if how != "batch" else 1e-3, rtol=0)


def run(path: Path, graph: Graph, pixels: torch.Tensor) -> dict[str, Any]:
    return open_session(path, "onnx", graph.names, threads=1).run(pixels.numpy())
