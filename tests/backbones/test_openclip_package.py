"""open_clip's parts without the rest of it are what the whole package has."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from zsad.backbones import openclip, openclip_package


@pytest.fixture(scope="module")
def whole() -> Any:
    """The package, which takes seconds to import: only where these tests run, not where they are collected."""
    return importlib.import_module("open_clip")


@pytest.fixture
def alone(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported open_clip."""
    monkeypatch.delitem(sys.modules, "open_clip")
    monkeypatch.delitem(sys.modules, openclip_package.ALONE, raising=False)


@pytest.fixture(scope="module")
def known(whole: Any) -> tuple[Any, Any]:
    """Architectures and plain models, by the package."""
    return openclip_package.architectures(), openclip.plain_models()


@pytest.mark.usefixtures("alone")
def test_parts_without_the_package_are_those_of_the_package(whole: Any, known: tuple[Any, Any]) -> None:
    published, pretrained = openclip_package.part("pretrained"), whole.pretrained
    assert published.__name__ == "zsad_open_clip.pretrained"
    assert published.list_pretrained() == pretrained.list_pretrained()
    assert published.get_pretrained_cfg("ViT-B-32", "openai") == pretrained.get_pretrained_cfg("ViT-B-32", "openai")
    assert (openclip_package.architectures(), openclip.plain_models()) == known
    assert openclip_package.configuration("ViT-B-32") == whole.get_model_config("ViT-B-32")
    assert openclip_package.configuration("absent") == {}
    assert "open_clip" not in sys.modules


def test_the_package_is_taken_where_it_is_loaded(whole: Any) -> None:
    assert openclip_package.part("pretrained") is whole.pretrained
    assert openclip_package.configuration("absent") == {}


@pytest.mark.slow
def test_megabytes_are_those_of_the_built_network() -> None:
    built = openclip.build("ViT-B-32", "ViT-B-32")
    assert openclip.megabytes("ViT-B-32.openai") == sum(one.numel() for one in built.parameters()) * 4 / 1e6
