"""Weights at plain addresses: announced, fetched once, whole or not at all."""

from __future__ import annotations

import io
import logging
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import zsad
from zsad.errors import WeightsUnavailable
from zsad.weights.plain_files import fetched_once, plain_folder

URL = "https://example.org/weights/tower.npz"


class Answer(io.BytesIO):
    """What a server sends."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(size)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Addresses that were opened; the server sends two million bytes."""
    opened: list[str] = []

    def answer(url: str, timeout: float) -> Answer:
        opened.append(url)
        return Answer(bytes(2_000_000), 2_000_000)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return opened


def test_announced_and_fetched_once(asked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        path = fetched_once("tower", URL)
    assert path == plain_folder() / "tower.npz"
    assert path.stat().st_size == 2_000_000
    assert f"Downloading tower.npz of tower: 2.0 MB from {URL} to {plain_folder()}" in caplog.text
    assert fetched_once("tower", URL) == path
    assert asked == [URL]
    assert [one.name for one in plain_folder().iterdir()] == ["tower.npz"]


def test_cut_short(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer(bytes(10), 20))
    with pytest.raises(WeightsUnavailable, match=r"tower\.npz of tower ended after 10 of 20 bytes\. Try again"):
        fetched_once("tower", URL)
    assert list(plain_folder().iterdir()) == []


def test_without_a_network(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(url: str, timeout: float) -> Any:
        raise OSError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    with pytest.raises(WeightsUnavailable, match="could not be fetched: Name or service not known. Either connect"):
        fetched_once("tower", URL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsUnavailable, match=r"tips_oss_l14_highres_distilled_vision.npz of tips-l14-hr is not here, and"):
        zsad.load_backbone("tips-l14-hr")
