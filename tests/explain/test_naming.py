"""Names of kinds by a model: what is sent, which answers are taken, and what a kind is called where there is none."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from vlm_server import Server, pictures_of, vlm_server

from zsad.explain.endpoint import Endpoint
from zsad.explain.naming import KindName, Named, name_all, tokens_of
from zsad.inference.region_features import Found
from zsad.kinds.grouping import Kinds
from zsad.runs.kinds_naming import GAP, SIDE, Namer, NamingPlan, sheet

SHEETS = [Image.new("RGB", (60, 40), colour) for colour in ("white", "black", "red")]
WORDS = ("kind 1", "scratch", "kind 3")


def named(text: str) -> str:
    return json.dumps({"name": text})


@contextmanager
def asked(plan: Callable[[int, dict[str, Any]], str]) -> Iterator[tuple[Server, Endpoint]]:
    with vlm_server(plan) as server:
        endpoint = Endpoint(server.url, "tiny", wait=0.001)
        try:
            yield server, endpoint
        finally:
            endpoint.close()


def test_each_kind_is_one_request_with_its_sheet() -> None:
    with asked(lambda number, _: named(["Long Scratch", "dark stain", "spot"][number - 1])) as (server, model):
        assert name_all(model, "brick", SHEETS, WORDS) == [Named("long scratch"), Named("dark stain"), Named("spot")]
    assert len(server.requests) == 3
    for request, one in zip(server.requests, SHEETS, strict=True):
        [seen] = [Image.open(io.BytesIO(data)) for data in pictures_of(request)]
        assert seen.size == (60, 40)
        assert np.abs(np.asarray(seen).astype(int) - np.asarray(one)).max() < 8
        assert "photographs of: brick" in request["messages"][0]["content"][0]["text"]
        assert request["response_format"]["json_schema"]["schema"] == KindName.model_json_schema()


def test_no_two_kinds_get_one_name() -> None:
    with asked(lambda *_: named("scratch")) as (_, model):
        assert [one.name for one in name_all(model, "brick", SHEETS, WORDS)] == ["scratch 2", "scratch", "scratch 3"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (named("cannot tell"), "the model cannot tell"),
        (named("new"), "the model cannot tell"),
        ("a scratch", "twice not of the form asked for (it holds no valid JSON object)"),
        (named("a very long scratch on it"), "has more than 4 words"),
        (named("a=b"), "name: String should match pattern"),
        (json.dumps({"name": "dent", "why": "?"}), "why: Extra inputs are not permitted"),
        ("400", "the model gave no answer: it answers 400"),
        ("401", "the model cannot be asked: it answers 401"),
    ],
)
def test_a_kind_without_a_name_keeps_its_own(answer: str, why: str) -> None:
    with asked(lambda *_: answer) as (server, model):
        found = name_all(model, "brick", SHEETS[:2], WORDS[:2])
    assert [one.name for one in found] == ["kind 1", "scratch"]
    assert all(why in one.why for one in found)
    if answer == "401":
        assert len(server.requests) == 1  # what refuses one refuses all


def test_sheets_of_a_runs_kinds_and_their_cost() -> None:
    def region(colour: int, side: int) -> Found:
        return Found(0, (0, 0, side, side), np.full((side, side, 3), colour, dtype=np.uint8), np.ones((side, side), bool))

    regions = [region(50, 8), region(200, 9), *(region(255, 4) for _ in range(5))]
    kinds = Kinds(("kind 1", "kind 2", "kind 3"), np.eye(3), np.full(3, 0.1), {})
    features = np.eye(3)[[0, 0, 1, 1, 1, 1, 1]]  # no region is nearest to the third
    told = list[NamingPlan]()
    with asked(lambda number, _: named(f"name {number}")) as (server, model):
        found, unnamed = Namer(model, told.append).name(kinds, "brick", regions, features, ())
    assert (found.names, unnamed) == (("name 1", "name 2", "name 3"), {})
    sizes = [Image.open(io.BytesIO(pictures_of(request)[0])).size for request in server.requests]
    wide, step = 2 * SIDE + GAP, SIDE + GAP
    assert sizes == [(wide, SIDE), (4 * step - GAP, wide), (SIDE, SIDE)]
    [plan] = told
    assert plan.kinds == 3
    assert plan.tokens == sum(tokens_of("brick", (height, width)) for width, height in sizes)
    first = np.asarray(sheet(regions[:2]))
    assert (first[0, 0, 0], first[0, SIDE + 1, 0], first[0, -1, 0]) == (200, 255, 50)  # the larger first, white between
