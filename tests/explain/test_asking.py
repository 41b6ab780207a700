"""Asking a model: the form of answers, what is drawn and sent, failures of a server, and going on after a stop."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

import asking_process as asking_process_file
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from vlm_server import GOOD, digest_of, pictures_of, vlm_server

from zsad.errors import ImageError, MissingExtra, UsageError
from zsad.explain.asking import Asker
from zsad.explain.endpoint import Endpoint
from zsad.explain.known import Explanations
from zsad.explain.pictures import Case, Outline, Seen, drawn, image_tokens
from zsad.explain.question import Question
from zsad.explain.schema import answer_schema, json_in, read_answer, why_invalid

ANSWER = json.dumps(GOOD)
REGION = Outline((4, 4, 12, 12), ((4, 4), (12, 4), (12, 12), (4, 12)))
KEY = "sk-nobody-may-see-this"


def case(index: int = 0, regions: tuple[Outline, ...] = (REGION,), flagged: bool = True) -> Case:
    pixels = np.random.default_rng(index).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    heat = np.full((24, 32), np.nan, dtype=np.float32)
    heat[4:12, 4:12] = 1
    return Case(f"{index}.png", (24, 32), str(index), flagged, regions, (0.0, 1.0), lambda: Seen(pixels, heat))


Ask = Callable[..., Asker]


@pytest.fixture
def asker() -> Iterator[Ask]:
    """Makes askers of a server; their connections are closed at the end."""
    with ExitStack() as stack:

        def make(url: str, known: Explanations | None = None, **of_both: Any) -> Asker:
            of_asker = {key: of_both.pop(key) for key in ("reference",) if key in of_both}
            endpoint = Endpoint(url, "tiny", **{"wait": 0.001, "timeout": 5, **of_both})
            stack.callback(endpoint.close)
            return Asker(endpoint, "brick", known=known, **of_asker)

        yield make


# ------------------------------------------------------------------ answers
def test_an_answer_is_checked_and_its_boxes_become_pixels() -> None:
    for text in (ANSWER, f"<think>{{no}}</think>```json\n{ANSWER}\n``` done"):
        found = read_answer(text, (200, 400))
        assert found["defect_seen"] == "yes"
        assert found["findings"][0]["box"] == [50, 100, 100, 200]  # corners in order, 400 wide and 200 high


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"defect_seen": "maybe"}, "defect_seen"),
        ({"findings": GOOD["findings"] * 4}, "at most 3"),
        ({"findings": [{**GOOD["findings"][0], "box": [0, 0, 10, 1001]}]}, "findings.0.box.3"),
        ({"findings": [{**GOOD["findings"][0], "box": [0, 0, 10]}]}, "findings.0.box"),
        ({"verdict": "normal"}, "verdict"),
    ],
)
def test_what_is_no_answer(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as error:
        read_answer(json.dumps(GOOD | change), (10, 10))
    assert why in why_invalid(error.value)
    assert json_in("words alone") == ""


def test_the_question_is_neutral_and_has_the_pictures_in_order(asker: Ask) -> None:
    with vlm_server(lambda *_: ANSWER) as server:
        normal = np.full((24, 32, 3), 7, dtype=np.uint8)
        ask = asker(server.url, reference=normal)
        ask(case())
    [request] = server.requests
    text = request["messages"][0]["content"][0]["text"]
    assert "Picture 1 shows: brick" in text
    assert "Picture 3 shows another example that was accepted as flawless" in text
    assert not {"anomalous", "flagged", "what is the defect"} & set(text.lower().split())
    assert request["response_format"]["json_schema"]["schema"] == answer_schema()
    plain, marked, reference = (np.asarray(Image.open(io.BytesIO(one))) for one in pictures_of(request))
    assert np.abs(plain.astype(int) - marked).max() > 100
    assert abs(int(reference.mean()) - 7) < 2


def test_drawings() -> None:
    one = case()
    seen = one.load()
    boxes, outlines, heat = (np.asarray(drawn(one, seen, how)) for how in ("box", "contour", "heat"))
    assert (boxes == outlines).all()  # the region is a rectangle
    changed = (heat != seen.picture).any(axis=2)
    assert changed[4:12, 4:12].all()
    assert changed.sum() == 64  # nothing where the map is below the threshold
    assert drawn(case(regions=()), seen, "heat") is None


def test_cost_is_told_without_reading_a_picture(asker: Ask, tmp_path: Path) -> None:
    def fails() -> Seen:
        raise AssertionError

    with vlm_server(lambda *_: ANSWER) as server:
        ask = asker(server.url, Explanations(tmp_path / "known.jsonl"))
        ask(case(1))
        unread = [Case(one.name, one.size, one.identity, True, one.regions, (0.0, 1.0), fails) for one in (case(1), case(2))]
        cost = ask.cost(unread)
    assert (cost.cases, cost.known, cost.images) == (2, 1, 2)
    assert cost.tokens > 2 * image_tokens((24, 32)) == 4
    assert image_tokens((4000, 2000)) == image_tokens((1024, 512))


# ------------------------------------------------------------------ failures
def test_a_wrong_form_is_asked_about_once_more_and_then_plain_text(asker: Ask) -> None:
    with vlm_server(lambda number, _: ANSWER if number == 2 else "a scratch, I think") as server:
        assert asker(server.url)(case())["defect_seen"] == "yes"
    assert "Your last answer was not of this form" in server.requests[1]["messages"][0]["content"][0]["text"]
    with vlm_server(lambda *_: "a scratch, I think") as server:
        found = asker(server.url)(case())
    assert found["text"] == "a scratch, I think"
    assert (found["defect_seen"], found["findings"], found["invalid"]) == (None, [], "it holds no valid JSON object")
    assert len(server.requests) == 2


def test_a_server_that_takes_no_schema(asker: Ask) -> None:
    def plan(_: int, body: dict[str, Any]) -> str:
        return "400" if "response_format" in body else ANSWER

    with vlm_server(plan) as server:
        ask = asker(server.url)
        assert [ask(case(index))["defect_seen"] for index in (1, 2)] == ["yes", "yes"]
    assert len(server.requests) == 3  # refused once


@pytest.mark.parametrize("answer", ["401", "404", "307", "400", "close", "500"])
def test_a_server_that_never_answers_ends_the_run(asker: Ask, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_API_KEY", KEY)
    with vlm_server(lambda *_: answer) as server, pytest.raises(UsageError) as error:
        list(asker(server.url).over(case(index) for index in range(20)))
    assert "cannot be asked" in str(error.value)
    assert KEY not in str(error.value)
    assert server.keys[0] == f"Bearer {KEY}"


def test_no_server_and_no_address(asker: Ask) -> None:
    with pytest.raises(UsageError, match="no connection"):
        list(asker("http://127.0.0.1:9/v1").over([case()]))
    for url in ("localhost:8000", "", "file:///etc"):
        with pytest.raises(UsageError, match="is no address of a server"):
            Endpoint(url, "tiny")
    with pytest.raises(UsageError, match="The model's name is empty"):
        Endpoint("http://127.0.0.1:9/v1", " ")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match="zsad\\[explain\\]"):
        Endpoint("http://127.0.0.1:9/v1", "tiny")


class Parrot:
    """Answers at once."""

    name, where, parallel = "parrot", "", 3

    def __call__(self, question: Question) -> str:
        return ANSWER

    def close(self) -> None:
        """Nothing is open."""


def test_no_more_pictures_are_in_memory_than_are_asked_about() -> None:
    alive, most, lock = 0, 0, Lock()

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def load() -> Seen:
        nonlocal alive, most
        pixels = np.zeros((24, 32, 3), dtype=np.uint8)
        with lock:
            alive += 1
            most = max(most, alive)
        weakref.finalize(pixels, gone)
        return Seen(pixels)

    cases = (Case(str(index), (24, 32), str(index), True, (), (0.0, 1.0), load) for index in range(50))
    assert sum(one["defect_seen"] == "yes" for one in Asker(Parrot(), "brick").over(cases)) == 50
    assert 0 < most <= 2 * Parrot.parallel


def test_a_picture_that_cannot_be_read_is_one_error(asker: Ask) -> None:
    def fails() -> Seen:
        raise ImageError("cut short")

    with vlm_server(lambda *_: ANSWER) as server:
        one = case()
        found = asker(server.url)(Case(one.name, one.size, one.identity, True, (), (0.0, 1.0), fails))
        other = asker(server.url)(Case(one.name, (9, 9), one.identity, True, (), (0.0, 1.0), one.load))
    assert found["error"] == "the picture cannot be read: cut short"
    assert "changed since" in other["error"]
    assert not server.requests


def test_disagreement_is_shown(asker: Ask) -> None:
    seen = {"no": True, "yes": False, "unsure": False}
    for said, disagrees in seen.items():
        with vlm_server(lambda *_, said=said: json.dumps({"defect_seen": said, "findings": []})) as server:
            ask = asker(server.url)
            assert ask(case())["disagrees"] is disagrees
            assert ask(case(flagged=False))["disagrees"] is (said == "yes")


FAILURES = ("500", "429", "close", "page", "{broken", json.dumps({"defect_seen": "perhaps"}))


def asking_process(url: str, known: Path, log: Path) -> subprocess.Popen[bytes]:
    """Explains 200 pictures in a child of a process that logs everything, and in that process itself when it gets a line."""
    paths = os.pathsep.join([str(Path(asking_process_file.__file__).parent), *filter(None, sys.path)])
    command, pipe = [sys.executable, asking_process_file.__file__, url, str(known), "200"], subprocess.PIPE
    with log.open("ab") as errors:
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdin=pipe, stdout=pipe, stderr=errors)


@pytest.mark.slow
def test_two_hundred_pictures_with_failures_of_each_kind_and_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request of one picture in ten fails in each way (slow: in a hundred), and the process is killed (SIGKILL).

    None is lost. What is on disk at the kill is not asked about again, and only what was under way, eight at most, may have
    been answered once before.
    """
    monkeypatch.setenv("ZSAD_API_KEY", KEY)
    tries, lock = Counter[str](), Lock()

    def plan(_: int, body: dict[str, Any]) -> str:
        with lock:
            tries[digest_of(body)] += 1
            place = list(tries).index(digest_of(body))
            first = tries[digest_of(body)] == 1
        return "slow" if first and place % 100 == 77 else FAILURES[place % 10] if first and place % 10 < 6 else ANSWER

    known, log = tmp_path / "known.jsonl", tmp_path / "log"
    with vlm_server(plan) as server:
        process = asking_process(server.url, known, log)
        child = int(process.stdout.readline())  # type: ignore[union-attr]
        deadline = time.monotonic() + 60
        while sum(server.answered.values()) < 60 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child, getattr(signal, "SIGKILL", signal.SIGTERM))
        assert int(process.stdout.readline()) != 0  # type: ignore[union-attr]
        kept, asked = Explanations(known), len(server.requests)
        on_disk = known.read_bytes().count(b"\n")
        assert 40 < on_disk < 200
        resumed, _ = process.communicate(b"\n", timeout=120)
    found = json.loads(resumed.splitlines()[-1])
    assert found["said"] == ["yes"] * 200
    assert found["growth"] < 15e6  # of 40 MB of pictures
    again = {digest_of(body) for body in server.requests[asked:]}
    assert len(again) == 200 - on_disk
    twice = [picture for picture, count in server.answered.items() if count > 1]
    assert len(server.answered) == 200
    assert len(twice) <= 8
    assert set(server.answered.values()) <= {1, 2}
    lines = [json.loads(line) for line in known.read_text(encoding="utf-8").splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 200
    assert all(kept.get(line["key"]) == line["explanation"] for line in lines[:on_disk])
    said = log.read_bytes() + known.read_bytes() + resumed
    assert b"Request options" not in said  # the client library's, in which pictures would stand
    for secret in (KEY.encode(), b"data:image", b64encode(pictures_of(server.requests[0])[0])[:200]):
        assert secret not in said
