"""Multiple-choice questions in MMAD's layout: what is asked, figures by hand, failures, and going on after a stop."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from vlm_server import pictures_of, vlm_server

from zsad.cli import app
from zsad.errors import UsageError
from zsad.evaluation.mmad import AVERAGE, DETECTION, Choice, accuracies, chances, read_choices
from zsad.explain.choices import ask_choice, read_choice

YES_NO = {"A": "Yes.", "B": "No."}
FOUR = {"A": "top", "B": "left", "C": "bottom", "D": "right"}


def asked(kind: str, answer: str, options: dict[str, str] = YES_NO) -> dict[str, Any]:
    return {"Question": f"{kind}, {answer}?", "Options": options, "Answer": answer, "type": kind}


def entry(*questions: dict[str, Any], **more: Any) -> dict[str, Any]:
    normal = {"random_templates": ["one/good/0.png", "one/good/1.png"], "similar_templates": ["one/good/1.png"]}
    return {"image_path": "x", "conversation": list(questions)} | normal | more


QUESTIONS = {
    "one/bad/a.png": entry(asked(DETECTION, "A"), asked("Defect Localization", "D", FOUR), asked("Object Details", "B")),
    "one/good/0.png": entry(asked(DETECTION, "B"), asked("Object Structure", "A")),
    "two/bad/b.png": entry(asked(DETECTION, "A"), asked("Defect Localization", "B", FOUR)),
}
ALL = 7


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, name in enumerate(("one/bad/a.png", "one/good/0.png", "one/good/1.png", "two/bad/b.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(tmp_path / "in" / name)
    (tmp_path / "mmad.json").write_text(json.dumps(QUESTIONS))
    return tmp_path


def run(data: Path, url: str, *words: object) -> Any:
    where = ("--pictures", data / "in", "--endpoint", url, "--model", "tiny", "--out", data / "out")
    return CliRunner().invoke(app, [*map(str, ("quiz", data / "mmad.json", *where, *words))])


def text_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"][0]["text"])


def test_reading_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    odd = [{}, "x", asked("", "A"), asked(DETECTION, "C"), asked(DETECTION, "A", {"A": "x"})]
    odd.append(asked(DETECTION, "A") | {"Options": ["Yes"]})
    path.write_text(json.dumps(QUESTIONS | {"odd.png": entry(*odd, asked("Defect Analysis", "B")), "none.png": {"mask": 1}}))
    found, templates, left_out = read_choices(path)
    assert list(found) == [*QUESTIONS, "odd.png"]
    assert sorted(left_out.values()) == [1, len(odd)]
    [last] = found["odd.png"]
    assert (last.kind, last.number, last.answer) == ("Defect Analysis", len(odd), "B")
    assert [one.kind for one in found["one/bad/a.png"]] == [DETECTION, "Defect Localization", "Object Analysis"]
    assert templates["two/bad/b.png"] == {"random": ["one/good/0.png", "one/good/1.png"], "similar": ["one/good/1.png"]}
    renamed = {"a/b.png": {"conversation_2": [asked("Defect Analysis", "A")]}}
    path.write_text(json.dumps(renamed))
    assert len(read_choices(path)[0]["a/b.png"]) == 1
    for content, message in (("[1]", "holds a list"), ("{", "cannot be read"), ("{}", "holds no question")):
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_choices(path)


def test_figures_by_hand() -> None:
    def some(folder: str, kind: str, options: int = 2) -> Choice:
        return Choice(f"{folder}/0.png", 0, kind, "?", dict.fromkeys("ABCD"[:options], "x"), "A")

    choices = (
        [some("s/test/good", DETECTION)] * 4
        + [some("s/test/bent", DETECTION)]
        + [some("s/test/bent", "Defect Analysis", 4)] * 2
    )
    choices += [some("goodies/x", DETECTION)]  # no folder "good"
    right = [True, False, False, False, True, True, False, False]
    found = accuracies(choices, right)
    assert found["s"] == {DETECTION: (0.25 + 1) / 2, "Defect Analysis": 0.5, AVERAGE: (0.625 + 0.5) / 2}
    assert found["goodies"] == {DETECTION: 0, AVERAGE: 0}
    assert found[AVERAGE] == {DETECTION: 0.3125, "Defect Analysis": 0.5, AVERAGE: 0.28125}
    assert chances(choices)["s"] == {DETECTION: 0.5, "Defect Analysis": 0.25, AVERAGE: 0.375}


def test_which_answers_are_taken() -> None:
    for text in ('{"answer": "B"}', "B", " b.", "(B)", '<think>{"answer": "A"}</think> {"answer": "B"}'):
        assert read_choice(text, YES_NO) == "B"
    for text in ("C", '{"answer": "C"}', "No, B", '{"answer": "B", "why": "?"}', "", '{"answer": ["B"]}'):
        with pytest.raises(ValueError):  # noqa: PT011  # JSON's and pydantic's
            read_choice(text, YES_NO)
    question = ask_choice("Where?", FOUR, Image.new("RGB", (4, 4)))
    assert question.schema["properties"]["answer"]["enum"] == list(FOUR)
    assert "C: bottom" in question.text
    assert "Picture 2" not in question.text


def test_questions_are_asked_each_by_itself_and_counted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_API_KEY", "sk-secret")

    def plan(_: int, body: dict[str, Any]) -> str:  # says A, and fails in three ways
        text = text_of(body)
        if "Object Details" in text:
            return "no idea"
        if "Object Structure" in text:
            return "400"
        return json.dumps({"answer": "D" if "Localization" in text else "A"})

    with vlm_server(plan) as server:
        told = run(data, server.url, "--dry-run")
        assert not server.requests
        assert not (data / "out").exists()
        done = run(data, server.url, "--parallel", 2)
        count = len(server.requests)
        again = run(data, server.url, "--json")
    assert told.stderr == done.stderr
    whence = f"3 pictures of '{data / 'in'}', 0 of them with regions."
    assert done.stderr.startswith(f"Pictures go to {server.url} (model tiny). {whence}")
    assert "7 questions: at most 14 images to send" in done.stderr
    assert done.exit_code == 3, done.output
    assert count == ALL + 1 + 1  # one form was wrong and asked about once more; one schema was refused
    assert len(server.requests) == count + 2  # what failed is asked again, with and without a schema
    assert "7 questions; 2 without a valid answer, counted as wrong" in done.stdout
    found = json.loads((data / "out/quiz.json").read_text(encoding="utf-8"))
    assert json.loads(again.stdout) == {key: found[key] for key in ("counts", "accuracy", "chance")}
    assert found["counts"] == {"right": 3, "wrong": 2, "invalid": 1, "failed": 1}
    one = {DETECTION: 0.5, "Defect Localization": 1.0, "Object Analysis": 0.0, AVERAGE: 0.5}
    assert found["accuracy"] == {
        "one": one,
        "two": {DETECTION: 1.0, "Defect Localization": 0.0, AVERAGE: 0.5},
        AVERAGE: {DETECTION: 0.75, "Defect Localization": 0.5, "Object Analysis": 0.0, AVERAGE: 0.5},
    }
    rows = [json.loads(line) for line in (data / "out/answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["picture"] for row in rows] == ["one/bad/a.png"] * 3 + ["one/good/0.png"] * 2 + ["two/bad/b.png"] * 2
    assert [row["number"] for row in rows] == [0, 1, 2, 0, 1, 0, 1]
    assert "it answers 400" in rows[4]["error"]
    assert "no valid JSON" in rows[2]["invalid"]
    everything = b"".join(path.read_bytes() for path in (data / "out").rglob("*") if path.is_file()) + done.output.encode()
    assert b"sk-secret" not in everything
    assert b"data:image" not in everything


def test_a_stopped_quiz_goes_on(data: Path) -> None:
    def plan(number: int, _: dict[str, Any]) -> str:
        return '{"answer": "A"}' if number <= 3 else "401"

    with vlm_server(plan) as server:
        stopped = [run(data, server.url, "--parallel", 1) for _ in range(2)]
        server.plan = lambda *_: '{"answer": "A"}'
        done = run(data, server.url, "--parallel", 1)
    assert "it answers 401" in stopped[1].output
    assert done.exit_code == 0, done.output
    answered = [text_of(body) + str(pictures_of(body)[0]) for body in server.requests]
    assert len(set(answered)) == ALL
    assert len([one for one in answered if answered.count(one) == 1]) >= 3  # the first three were not asked again


def test_regions_of_a_run_and_normal_pictures_are_shown(data: Path) -> None:
    region = {"box": [4, 4, 20, 20], "contour": [[4, 4], [20, 4], [20, 20], [4, 20]]}
    rows = [{"name": "a.png", "relative_path": "one/bad/a.png", "regions": [region]}, {"name": "one/good/0.png", "regions": []}]
    (data / "run").mkdir()
    (data / "run/predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with vlm_server(lambda *_: '{"answer": "A"}') as server:
        done = run(data, server.url, "--results", data / "run", "--similar")
        assert done.exit_code == 0, done.output
        bare = run(data, server.url, "--templates", 0)
    assert "1 of them with regions" in done.stderr
    assert len(server.requests) == 2 * ALL  # other pictures are another question
    assert bare.exit_code == 0
    for body in server.requests[:ALL]:
        pixels = [np.asarray(Image.open(io.BytesIO(one))).astype(int) for one in pictures_of(body)]
        with_regions = "Picture 2 is picture 1 with marks" in text_of(body)
        assert len(pixels) == 2 + with_regions
        assert with_regions == (np.abs(pixels[0] - pixels[1]).max() > 100)
        assert abs(pixels[-1][..., 0].mean() - 120) < 3  # the similar template
    assert all(len(pictures_of(body)) == 1 for body in server.requests[ALL:])


def test_bad_input(data: Path, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        with vlm_server(lambda *_: '{"answer": "A"}') as server:
            done = run(data, server.url, *words)
            assert not server.requests
        assert done.exit_code == 2, done.output
        return " ".join(done.output.split())

    assert "There is no folder" in said("--pictures", data / "none")
    assert "holds no results" in said("--results", data / "none")
    (data / "run").mkdir()
    (data / "run/predictions.jsonl").write_text(json.dumps({"name": "z.png", "relative_path": None, "regions": []}) + "\n")
    assert "has no row of any of the questions' pictures" in said("--results", data / "run")
    assert "holds other files" in said("--out", data / "in")
    (data / "other/.zsad").mkdir(parents=True)
    (data / "other/.zsad/records.jsonl").touch()
    assert "holds results of another command" in said("--out", data / "other")


def test_no_picture_outside_the_folder_is_sent(data: Path) -> None:
    Image.new("RGB", (9, 9)).save(data / "secret.png")
    (data / "in/link.png").symlink_to(data / "secret.png")
    out = ["../secret.png", str(data / "secret.png"), "link.png", "none.png", "a\0b.png"]
    questions = {name: entry(asked(DETECTION, "A"), random_templates=[]) for name in out}
    questions["one/bad/a.png"] = entry(asked(DETECTION, "A"), random_templates=["../secret.png"])
    (data / "mmad.json").write_text(json.dumps(questions))
    with vlm_server(lambda *_: '{"answer": "A"}') as server:
        done = run(data, server.url)
    assert not server.requests
    assert done.exit_code == 3, done.output
    rows = [json.loads(line) for line in (data / "out/answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [("leads out of" in row["error"]) for row in rows] == [True, True, True, False, True, True]
