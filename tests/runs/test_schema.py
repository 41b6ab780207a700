"""docs/result.schema.json is true: every row and every result fits it, and it names every key."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness import folder_of, picture, registered_methods  # noqa: F401
from typer.testing import CliRunner

from zsad.cli import app
from zsad.inference.inspector import Inspector
from zsad.inference.result import Region, Result

TYPES: dict[str, tuple[type, ...]] = {
    **{"string": (str,), "integer": (int,), "number": (int, float), "array": (list,), "object": (dict,)},
    **{"boolean": (bool,), "null": (type(None),)},
}
KNOWN = {
    *("type", "enum", "const", "anyOf", "$ref", "properties", "required", "additionalProperties", "items", "description"),
    *("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "$schema", "$id", "$defs", "title"),
}


@pytest.fixture(scope="module")
def schema(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "docs/result.schema.json").read_text(encoding="utf-8"))
    return found


def faults(value: Any, rule: dict[str, Any], whole: dict[str, Any], where: str = "") -> Iterator[str]:
    """Violations of the part of JSON Schema that the file uses; a keyword outside it fails the test."""
    assert rule.keys() <= KNOWN, rule.keys() - KNOWN
    if reference := rule.get("$ref"):
        yield from faults(value, whole["$defs"][reference.rpartition("/")[2]], whole, where)
    if options := rule.get("anyOf"):
        found = [list(faults(value, one, whole, where)) for one in options]
        yield from [] if not all(found) else [f"{where}: none of {len(found)}"]
    kinds = rule.get("type", [])
    allowed = tuple(one for kind in ([kinds] if isinstance(kinds, str) else kinds) for one in TYPES[kind])
    if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
        yield f"{where}: {value!r} is no {kinds}"
    if ("enum" in rule and value not in rule["enum"]) or ("const" in rule and value != rule["const"]):
        yield f"{where}: {value!r} is not in the list"
    if isinstance(value, (int, float)):
        if not rule.get("minimum", value) <= value <= rule.get("maximum", value):
            yield f"{where}: {value} is out of bounds"
    elif isinstance(value, (list, str)):
        unit = "Items" if isinstance(value, list) else "Length"
        if not rule.get(f"min{unit}", 0) <= len(value) <= rule.get(f"max{unit}", len(value)):
            yield f"{where}: {len(value)} entries"
    if isinstance(value, list) and "items" in rule:
        for index, one in enumerate(value):
            yield from faults(one, rule["items"], whole, f"{where}[{index}]")
    if isinstance(value, dict):
        yield from (f"{where}.{key} is missing" for key in rule.get("required", ()) if key not in value)
        for key, one in value.items():
            inner = rule.get("properties", {}).get(key, rule.get("additionalProperties", {}))
            yield from faults(one, inner, whole, f"{where}.{key}")


def unnamed(value: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """Keys of a row and its regions that the schema does not name."""
    regions = {key for region in value["regions"] for key in region}
    return (value.keys() - schema["properties"].keys()) | (regions - schema["$defs"]["region"]["properties"].keys())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a run with verdicts, regions, words, maps, a file that cannot be read, and one without verdicts."""
    place, found = tmp_path_factory.mktemp("schema"), []
    folder_of(place / "in", 9, 2)
    (place / "in/broken.png").write_bytes(b"no picture")
    folder_of(place / "few", 2)
    for source, more in (("in", ["--maps", "png"]), ("few", [])):
        arguments = [str(place / source), "--out", str(place / f"out {source}"), "--method", "brightness", *more]
        CliRunner().invoke(app, ["predict", *arguments])
        text = (place / f"out {source}/predictions.jsonl").read_text(encoding="utf-8")
        found += [json.loads(line) for line in text.splitlines()]
    return found


def test_rows_of_a_run_fit(rows: list[dict[str, Any]], schema: dict[str, Any]) -> None:
    assert len(rows) == 14
    assert {row["pred_label"] for row in rows} == {"normal", "anomalous", None}
    assert any(row["regions"] for row in rows)
    for row in rows:
        assert list(faults(row, schema, schema)) == []
        assert unnamed(row, schema) == set()
        assert set(schema["required"]) <= row.keys()


def test_results_fit(schema: dict[str, Any], tmp_path: Path) -> None:
    region = Region((0, 0, 2, 2), 4, 0.5, ((0, 0), (2, 0), (2, 2), (0, 2)), "crack", 0.2)
    picture(0.3, (8, 8, 24, 24)).save(tmp_path / "a.png")
    inspector = Inspector("brightness", threshold=0.5, review_at=0.4, pixel_threshold=0.5)
    results = [Result("a.png"), Result("a.png", error="empty"), Result("b", Path("c/b"), 0.1, 0.5, "review", regions=(region,))]
    results += [*inspector(str(tmp_path)), *inspector([np.zeros((40, 40, 3), np.uint8)])]
    assert results[3].regions
    for result in results:
        row = json.loads(json.dumps(result.as_dict(), allow_nan=False))
        assert list(faults(row, schema, schema)) == []
        assert unnamed(row, schema) == set()
        assert pickle.loads(pickle.dumps(result)).as_dict() == result.as_dict()


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"pred_label": "bad"},
            {"pred_score": "0.5"},
            {"regions": [{}]},
            {"regions": None},
            {"notes": "turned"},
            {"name": ""},
        ),
        *({"p_value": 1.5}, {"prompts": {"normal": "a lamp"}}, {"threshold": True}, {"error": ["empty"]}),
    ],
    ids=str,
)
def test_other_rows_do_not(change: dict[str, Any], schema: dict[str, Any]) -> None:
    row = Result("a.png").as_dict()
    assert list(faults(row | change, schema, schema))
    row.pop(next(iter(change)))
    assert list(faults(row, schema, schema))


def test_a_full_validator_agrees(rows: list[dict[str, Any]], schema: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    assert [list(check.iter_errors(row)) for row in rows] == [[] for _ in rows]
    assert not check.is_valid(rows[0] | {"regions": [{"box": [1, 2]}]})
