"""Reads the few keys of a ``data.yaml``: words, lists and one level of keys below, as the tools write them; no other YAML."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["keys_of"]

_COMMENT = re.compile(r"(^|\s)#.*$")


def keys_of(text: str) -> dict[str, Any]:
    """The keys at the left edge, each with a word, a list of words, or a dictionary of words; what is none of these is "".

    ``names: [a, b]``, ``names: {0: a}``, and lists and dictionaries with a line per entry; comments and quotes are undone.
    """
    found: dict[str, Any] = {}
    key = ""
    for line in _joined(text):
        bare = line.strip()
        if not bare or bare in ("---", "...") or bare.startswith("%"):
            continue
        if line[0] not in " \t" and bare != "-" and not bare.startswith("- "):
            name, colon, value = _split(bare)
            if colon:
                key = name
                found[key] = _value(value)
        elif key and (bare == "-" or bare.startswith("- ")):
            found[key] = [*(found[key] if isinstance(found[key], list) else []), _word(bare[1:])]
        elif key:
            name, colon, value = _split(bare)
            if colon:
                found[key] = (found[key] if isinstance(found[key], dict) else {}) | {name: _word(value)}
    return found


def _joined(text: str) -> list[str]:
    """Lines without comments; a list or dictionary in brackets that goes over several lines is one."""
    lines: list[str] = []
    is_open = False
    for raw in text.splitlines():
        line = raw if re.search(r"""["'].*#.*["']""", raw) else _COMMENT.sub("", raw)
        if is_open:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
        value = _split(lines[-1].strip())[2].strip()
        is_open = value[:1] in ("[", "{") and value[-1:] != {"[": "]", "{": "}"}[value[0]]
    return lines


def _split(line: str) -> tuple[str, str, str]:
    """(key, ":", value); three empty words where a line has no key."""
    line = line.strip()
    if line[:1] in ('"', "'"):
        end = line.find(line[0], 1)
        rest = line[end + 1 :].lstrip() if end > 0 else ""
        return (line[1:end], ":", rest[1:]) if rest.startswith(":") else ("", "", "")
    at = line.find(": ") if ": " in line else len(line) - 1 if line.endswith(":") else -1
    return (line[:at].strip(), ":", line[at + 1 :]) if at > 0 and line[0] not in "[{" else ("", "", "")


def _value(text: str) -> Any:
    text = text.strip()
    if text[:1] == "[" and text[-1:] == "]":
        return [_word(one) for one in _parts(text[1:-1])]
    if text[:1] == "{" and text[-1:] == "}":
        pairs = (_split(re.sub(r"^(\s*[^\s:]+):(?=\S)", r"\1: ", one)) for one in _parts(text[1:-1]))
        return {name: _word(value) for name, colon, value in pairs if colon}
    return _word(text)


def _parts(text: str) -> list[str]:
    """Splits at commas that are in no quotes."""
    return [one for one in re.findall(r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,"'])+""", text) if one.strip()]


def _word(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return "" if text[:1] in ("&", "*", "!", "|", ">", "[", "{") or text in ("null", "~", "None") else text
