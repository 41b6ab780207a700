"""What differs between settings then and now, as a person reads it."""

from __future__ import annotations

from zsad.stored import differences


def test_of_objects_the_entries_that_differ_are_named() -> None:
    padded = {"tile": None, "overlap": None, "roi": None, "keep_aspect": True}
    assert differences({"geometry": None}, {"geometry": padded}) == ["geometry.keep_aspect was null and is true"]
    cropped = padded | {"keep_aspect": False, "roi": "box:0,0 100,100"}
    assert differences({"geometry": padded}, {"geometry": cropped}) == [
        "geometry.keep_aspect was true and is false",
        'geometry.roi was null and is "box:0,0 100,100"',
    ]
    assert differences({"references": {"count": 6, "sha256": "ab"}}, {"references": {"count": 7, "sha256": "ab"}}) == [
        "references.count was 6 and is 7"
    ]


def test_no_difference_is_lost() -> None:
    """Entries that say the same unset are named by their object where nothing else differs."""
    assert differences({"a": {"b": None}}, {"a": {"b": False}}) == ['a was {"b": null} and is {"b": false}']
    assert differences({"a": None}, {"a": {}}) == ["a was null and is {}"]
    assert differences({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}) == ["a.b.c was 1 and is 2"]
    assert differences({"a": {"b": 0}}, {"a": {"b": None}}) == ['a was {"b": 0} and is {"b": null}']
    assert differences({"a": [1, 2]}, {"a": (1, 2)}) == []
