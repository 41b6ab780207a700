"""open_clip's parts without the rest of it are what the whole package has."""

from __future__ import annotations

import sys

import pytest

from zsad.backbones import openclip, openclip_package


def test_parts_without_the_package_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip
    from open_clip import pretrained

    whole = openclip_package.architectures(), openclip.plain_models()
    monkeypatch.delitem(sys.modules, "open_clip")  # as in a process that has not imported it
    monkeypatch.delitem(sys.modules, openclip_package.ALONE, raising=False)
    published = openclip_package.part("pretrained")
    assert published.__name__ == "zsad_open_clip.pretrained"
    assert published.list_pretrained() == pretrained.list_pretrained()
    assert published.get_pretrained_cfg("ViT-B-32", "openai") == pretrained.get_pretrained_cfg("ViT-B-32", "openai")
    assert (openclip_package.architectures(), openclip.plain_models()) == whole
    assert openclip_package.configuration("ViT-B-32") == open_clip.get_model_config("ViT-B-32")
    assert openclip_package.configuration("absent") == {}
    assert "open_clip" not in sys.modules


def test_the_package_is_taken_where_it_is_loaded() -> None:
    from open_clip import pretrained

    assert openclip_package.part("pretrained") is pretrained
    assert openclip_package.configuration("absent") == {}


def test_megabytes_are_those_of_the_built_network() -> None:
    built = openclip.build("ViT-B-32", "ViT-B-32")
    assert openclip.megabytes("ViT-B-32.openai") == sum(one.numel() for one in built.parameters()) * 4 / 1e6
