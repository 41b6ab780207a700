"""HEIC, AVIF and DICOM, the extras that read them, and the files that are passed over."""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from zsad.errors import ImageError, SourceNotFound
from zsad.images import formats
from zsad.images.formats import extra_suffixes, passed_over_line
from zsad.images.reading import list_images, load_image

RGB = np.kron(np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
PERSON = "Doe^Jane"


def load(source: Any, **options: Any) -> Any:
    (ref,) = list_images(source)
    return load_image(ref, **options)


def failure(source: Any, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load(source, **options)
    assert PERSON not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ passed over
def test_what_is_passed_over_is_counted_by_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has", lambda package: False)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for name in ("b.HEIC", "c.heic", "d.pdf", "Makefile", "deep/e.dcm", ".hidden.txt", "f.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("out/.zsad/x.json", "out/predictions.csv", "out/maps/deep/a.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    counts = Counter[str]()
    assert [ref.name for ref in list_images(tmp_path, passed_over=counts)] == ["a.png"]
    assert counts == {".heic": 2, ".pdf": 1, "without ending": 1, ".dcm": 1, ".zip": 1}
    assert passed_over_line(counts) == (
        "passed over, by ending: 2 .heic, 1 .dcm, 1 .pdf, 1 .zip, 1 without ending; "
        ".dcm: pip install 'zsad[dicom]'; .heic: pip install 'zsad[heic]'."
    )


def test_endings_follow_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has", lambda package: package == "pydicom")
    monkeypatch.setattr(formats, "_pillow_reads_avif", lambda: False)
    assert extra_suffixes() == {".dcm", ".dicom"}
    monkeypatch.setattr(formats, "_has", lambda package: package == "pillow_heif")
    monkeypatch.setattr(formats, "_pillow_reads_avif", lambda: True)
    assert extra_suffixes() == {".heic", ".heif", ".hif", ".avif"}


HEIC_HEAD = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(20)
DICOM_HEAD = bytes(128) + b"DICM" + bytes(20)


@pytest.mark.parametrize(("package", "data", "extra"), [("pillow_heif", HEIC_HEAD, "heic"), ("pydicom", DICOM_HEAD, "dicom")])
def test_a_missing_extra_is_one_sentence(package: str, data: bytes, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert f"which an extra reads. Install it with: pip install 'zsad[{extra}]'." in failure(data)


def test_a_video_is_no_heic(tmp_path: Path) -> None:
    assert "no picture of a kind" in failure(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(20))


# ------------------------------------------------------------------ AVIF, HEIC
avif = pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="this Pillow reads no AVIF")


@avif
def test_avif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RGB).save(tmp_path / "a.avif", quality=95)
    assert np.abs(load(tmp_path).rgb.astype(int) - RGB).mean() < 6
    Image.fromarray(RGB).save(tmp_path / "a.avif", quality=95, exif=exif)
    assert np.abs(load(tmp_path).rgb.astype(int) - np.rot90(RGB, -1)).mean() < 6
    Image.fromarray(RGB).save(tmp_path / "a.avif", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert load(tmp_path).notes == ("animated: first of 2 frames",)
    assert "is too large" in failure(tmp_path, max_pixels=100)
    (tmp_path / "a.avif").write_bytes((tmp_path / "a.avif").read_bytes()[:200])
    assert failure(tmp_path)


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(RGB)).save(buffer, quality=95)
    assert np.abs(load(buffer).rgb.astype(int) - RGB).mean() < 8
    assert "is too large" in failure(buffer, max_pixels=100)
    assert failure(buffer.getvalue()[:300])
    exif = Image.Exif()
    exif[274] = 6
    heif.from_pillow(Image.fromarray(RGB)).save(buffer := io.BytesIO(), quality=95, exif=exif.tobytes())
    assert load(buffer).rgb.shape[:2] == (96, 64)


# ------------------------------------------------------------------ DICOM
def dicom(pixels: np.ndarray | None, **fields: Any) -> bytes:
    """A DICOM file of these values, and of a person."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.PatientName = PERSON
    if pixels is not None:
        colour = pixels.ndim == 3 and pixels.shape[2] == 3
        data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
        if colour:
            data.PlanarConfiguration = 0
        data.Rows, data.Columns = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:]
        data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
        data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
        data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


VALUES = np.array([[0, 1000, 2000, 3000, 4095, 1500]], np.uint16)


def grey(data: bytes, **options: Any) -> list[int]:
    return [int(value) for value in load(data, **options).rgb[0, :, 0]]


def test_dicom_by_stored_bits_window_and_rescale() -> None:
    full = [round(v * 255 / 4095) for v in (0, 1000, 2000, 3000, 4095, 1500)]
    assert grey(dicom(VALUES, BitsStored=12, HighBit=11)) == full
    # PS3.3 C.11.2.1.2 by hand: centre 2000, width 2001 is 999.5..2999.5; values 0 -> 0, 3000 -> 255, 2000 -> 127.5 + ...
    windowed = dicom(VALUES, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=2001)
    wanted = [round(min(max((v - 999.5) / 2000, 0), 1) * 255) for v in VALUES[0]]
    assert grey(windowed) == wanted
    exact = dicom(VALUES, BitsStored=12, HighBit=11, WindowCenter=["2000", "1"], WindowWidth=["2000", "1"])
    assert grey(exact)[1] == round(0.5 / 1999 * 255) == 0
    linear = dicom(VALUES, BitsStored=12, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT")
    assert grey(linear) == [0, 0, 128, 255, 255, 64]
    # a CT: stored values times 2 minus 1000, window 0..2000
    ct = dicom(VALUES, BitsStored=12, RescaleSlope="2", RescaleIntercept="-1000", WindowCenter=1000.5, WindowWidth=2001)
    assert grey(ct) == [0, round(1000 / 2000 * 255), 255, 255, 255, 255]
    assert grey(windowed, value_range=(0, 4095)) == full
    assert load(windowed).notes[1].startswith("16-bit: range 999.5..2999.5 (DICOM window) mapped to 0..255")


def test_dicom_monochrome1_is_inverted_and_signed_values_are_read() -> None:
    assert grey(dicom(VALUES, BitsStored=12, PhotometricInterpretation="MONOCHROME1"))[0] == 255
    eight = np.array([[0, 100, 255]], np.uint8)
    assert grey(dicom(eight)) == [0, 100, 255]
    assert grey(dicom(eight, PhotometricInterpretation="MONOCHROME1")) == [255, 155, 0]
    assert grey(dicom(eight, WindowCenter=100, WindowWidth=1)) == [0, 128, 255]
    signed = np.array([[-2048, 0, 2047]], np.int16)
    assert grey(dicom(signed, BitsStored=12)) == [0, round(2048 / 4095 * 255), 255]


def test_dicom_colour_frames_and_limits(tmp_path: Path) -> None:
    assert np.array_equal(load(dicom(RGB)).rgb, RGB)
    frames = np.stack([VALUES[:, :4], VALUES[:, :4] * 0])
    assert load(dicom(frames, NumberOfFrames=2)).notes[0] == "DICOM: first frame"
    assert grey(dicom(frames, NumberOfFrames=2, BitsStored=12))[3] == round(3000 / 4095 * 255)
    assert "is too large" in failure(dicom(RGB), max_pixels=100)
    assert "without pixels" in failure(dicom(None))
    assert "without pixels" in failure(dicom(None, Rows=4, Columns=4))
    assert "cannot be decoded" in failure(dicom(VALUES, Rows=400))
    assert "RescaleSlope is 0" in failure(dicom(VALUES, RescaleSlope="0"))
    assert failure(dicom(VALUES)[:150])
    (tmp_path / "a.dcm").write_bytes(dicom(RGB))
    assert np.array_equal(load(tmp_path).rgb, RGB)


def test_no_field_of_a_person_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(VALUES, WindowCenter=2000, WindowWidth=2000)
    pydicom = pytest.importorskip("pydicom")
    seen: list[Any] = []
    real = pydicom.dcmread

    def dcmread(*args: Any, **options: Any) -> Any:
        seen.append(real(*args, **options))
        return seen[-1]

    monkeypatch.setattr(pydicom, "dcmread", dcmread)
    assert PERSON not in str(load(data).notes)
    assert [one for one in seen if "PatientName" in one] == []
    assert len(seen) == 1


def test_a_folder_of_unread_kinds_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has", lambda package: False)
    (tmp_path / "a.heic").write_bytes(HEIC_HEAD)
    with pytest.raises(SourceNotFound, match=r"holds no picture; files seen: 1 \(1 \.heic\); .*pip install 'zsad\[heic\]'"):
        list_images(tmp_path)
