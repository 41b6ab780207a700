"""150 files that are broken, empty, huge, nested or something else: each is a row or a sentence, none a traceback."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
ENDINGS = ("png", "jpg", "webp", "bmp", "tif", "gif", "jp2", "ppm")
MOST_MB = 1500


def encoded(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    memory = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    name = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(kind, kind.upper())
    Image.fromarray(noise).save(memory, name)
    return memory.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def zipped(members: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return memory.getvalue()


def contents() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(1)
    for kind in ENDINGS:
        whole = encoded(kind)
        for share in (0.02, 0.3, 0.6, 0.9):
            yield f"cut-{share}.{kind}", whole[: int(share * len(whole))]
        yield f"empty.{kind}", b""
        yield f"zeros.{kind}", bytes(500)
        yield f"page.{kind}", b"<!DOCTYPE html><html>404</html>"
        yield f"pointer.{kind}", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
        yield f"other.{kind}", encoded("png" if kind != "png" else "jpg")
        for number in range(3):
            torn = bytearray(whole)
            for place in rng.integers(0, len(torn), 12):
                torn[place] = int(rng.integers(0, 256))
            yield f"torn-{number}.{kind}", bytes(torn)
        yield f"tail.{kind}", whole + rng.bytes(3000)
        yield f"one-pixel.{kind}", encoded(kind, (16, 16) if kind == "jp2" else (1, 1))
    for number, size in enumerate(((60000, 60000), (2**31 - 1, 1), (0, 5), (1, 200000), (65535, 4000))):
        yield f"claims-{number}.png", png_of(*size)
    photo = encoded("png")
    yield "up.zip", zipped({"../../evil.png": photo, "/etc/evil.png": photo})
    yield "nested.zip", zipped({"inner.zip": zipped({"x.png": photo}), "y.png": photo})
    yield "bomb.zip", zipped({"bomb.png": bytes(300_000_000)})
    yield "none.zip", zipped({"readme.txt": b"no picture"})
    yield "broken.zip", zipped({"x.png": photo})[:-30]
    yield "links.tar.gz", tarred({"../up.png": photo, "fine.png": photo})
    yield "bomb.tar.gz", tarred({"bomb.png": bytes(300_000_000)})
    yield "cut.tar.gz", tarred({"x.png": rng.bytes(5000)})[:900]
    yield "text.tar", b"no archive at all"
    yield "frames.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
    yield "empty.avi", b""
    yield "scan.dcm", bytes(128) + b"DICM" + bytes(40)
    yield "cut.dcm", bytes(100)
    yield "photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    yield "moving.avif", b"\0\0\0\x1cftypavis\0\0\0\0avismsf1"
    yield "raw.cr2", b"II*\0\x10\0\0\0CR\x02\0" + bytes(50)
    yield "paper.pdf", b"%PDF-1.7\n"
    yield "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "pickle.png", b"\x80\x04cos\nsystem\n(S'touch evil'\ntR."
    yield "list.json", b"[" * 100_000


def test_every_file_is_a_row_or_a_sentence(root: Path, tmp_path: Path) -> None:
    files = list(contents())
    files += [(f"fine-{number}.png", encoded("png", (60 + number, 50))) for number in range(8)]
    assert len(files) >= 140
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "folder.png").mkdir()
    names = [name for name, _ in files] + ["pipe.png", "circle.png", "folder.png", "absent.png", "x\ty.png", "\udcff.png"]
    listing = tmp_path / "names.txt"
    listing.write_bytes(b"\n".join(os.fsencode(name) for name in names))
    assert len(names) >= 150
    code = (
        f"import sys; sys.path.append({str(root / 'benchmarks')!r})\n"
        "from memory import peak_mb; from zsad.cli import main\n"
        "try: main()\n"
        "finally: print(peak_mb(), file=open('peak', 'w'))"
    )
    words = ["predict", f"@{listing}", "--set", "tower=small", "--batch", "off", "--out", "out", "--batch-size", "4"]
    run = [sys.executable, "-W", "ignore", "-c", code, *words]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = {row["name"].split("/")[0] for row in rows} | {row["path"] for row in rows}
    lost = [name for name in names if name not in shown and name not in done.stdout + done.stderr]
    assert lost == []
    assert sum(row["error"] is None for row in rows) >= 8
    assert all(row["error"] for row in rows if row["pred_score"] is None)
    assert not list(tmp_path.parent.glob("evil*")) + list(tmp_path.glob("evil*"))
    assert float((tmp_path / "peak").read_text()) < MOST_MB
