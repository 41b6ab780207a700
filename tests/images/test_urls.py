"""Pictures from http addresses: only when asked for, one row each, with a limit."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsad.errors import ImageError, SourceNotFound
from zsad.images import urls
from zsad.images.reading import ImageRef, list_images, load_image
from zsad.images.urls import without_keys

RGB = np.random.default_rng(4).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def png(pixels: np.ndarray = RGB) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to-file"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
        elif self.path.startswith("/slow"):
            time.sleep(1.5)
        elif self.path.startswith("/long"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(5000))
        elif self.path.startswith("/page"):
            self.answer(b"<html></html>")
        elif "png" in self.path:
            self.answer(png() if "key=2" not in self.path else png(255 - RGB))
        else:
            self.send_error(404)

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def failure(url: str) -> str:
    (ref,) = list_images(url, allow_urls=True)
    with pytest.raises(ImageError) as caught:
        load_image(ref)
    return str(caught.value)


def test_a_picture_is_fetched_when_it_is_asked_for(site: str) -> None:
    host = site.removeprefix("http://")
    refs = list(list_images([f"{site}/line 3/a.png", f"{site}/é.png", f"{site}/moved", f"{site}//x/../b.png"], allow_urls=True))
    assert [ref.name for ref in refs] == [f"{host}/{name}" for name in ("line 3/a.png", "é.png", "moved", "x/b.png")]
    for ref in refs:
        assert np.array_equal(load_image(ref).rgb, RGB)
        assert np.array_equal(load_image(ImageRef("again", ref.path)).rgb, RGB)


def test_nothing_is_fetched_unasked(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_listed", {})
    Handler.asked.clear()
    with pytest.raises(SourceNotFound, match=r"is a URL. Give --allow-urls \(allow_urls=True\) to have it fetched"):
        list_images(f"{site}/a.png?x=1")
    (ref,) = list_images([f"{site}/a.png"])
    with pytest.raises(ImageError, match="is a URL"):
        load_image(ref)
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(ImageRef("x", Path(f"{site}/a.png")))
    assert Handler.asked == []


def test_keys_are_sent_and_not_shown(site: str) -> None:
    refs = list(list_images([f"{site}/k.png?key=1", f"{site}/k.png?key=2"], allow_urls=True))
    assert np.array_equal(load_image(refs[0]).rgb, RGB)
    assert np.array_equal(load_image(refs[1]).rgb, 255 - RGB)
    assert "key" not in repr(refs)
    assert len({ref.name for ref in refs}) == len({ref.path for ref in refs}) == 2
    assert without_keys("https://me:secret@host/a.png?token=1#x") == "https://host/a.png"
    assert without_keys("photos?x") == "photos?x"


@pytest.mark.slow
def test_what_cannot_be_fetched_is_one_sentence(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be fetched: HTTP 404 Not Found. Check the address." in failure(f"{site}/gone")
    assert "no picture of a kind" in failure(f"{site}/page")
    assert "cannot be fetched" in failure(f"{site}/to-file")
    assert "cannot be fetched: Connection refused" in failure("http://127.0.0.1:1/a.png")
    assert "is no valid address" in failure("http://user:secret@host:x/a.png")
    assert "secret" not in failure("http://user:secret@host:x/a.png")
    monkeypatch.setattr(urls, "_SILENT", 0.3)
    assert "cannot be fetched: timed out" in failure(f"{site}/slow")
    monkeypatch.setattr(urls, "_LARGEST", 50)
    assert "is too large" in failure(f"{site}/long")
    assert "is too large" in failure(f"{site}/a.png")
