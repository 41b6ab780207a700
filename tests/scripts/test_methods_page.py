"""docs/methods.md is what the registry says, and every method has prose, figures of parity, and a section."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import zsad
from zsad.verification import list_proofs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "scripts/methods_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(script: ModuleType) -> None:
    assert script.page() == (ROOT / "docs/methods.md").read_text(encoding="utf-8")


def test_every_proof_has_its_differences(script: ModuleType) -> None:
    measured = json.loads(script.MEASURED.read_text())["methods"]
    assert {name for name, one in measured.items() if "parity" in one} == set(list_proofs()) & set(zsad.list_methods())


def test_a_method_without_prose_is_named(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.zsad, "list_methods", lambda: ["compact", "newest"])
    with pytest.raises(SystemExit, match=r"methods\.toml has no section for newest"):
        script.page()


def test_differences_are_rounded_up(script: ModuleType) -> None:
    assert [script.rounded(value) for value in (None, 0.0, 1e-6, 1.1e-6, 9.9e-6)] == ["-", "0", "1e-6", "2e-6", "1e-5"]
