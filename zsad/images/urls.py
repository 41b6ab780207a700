"""Fetches pictures from http and https addresses: only those that were listed with ``allow_urls``, and no more than a limit.

A row's name and path have the address without its user, password and query, which may hold keys.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from zsad.errors import ImageError

__all__ = ["enlist_url", "fetch", "is_url", "without_keys"]

_LARGEST = 256 * 1024**2  # bytes of a picture file
_SILENT, _LONGEST = 20.0, 120.0  # seconds without an answer, and altogether
_PIECE = 1 << 16
_KEPT = "/%:@!$&'()*+,;=~-._?"  # characters of an address that are not escaped
_listed: dict[str, str] = {}  # a row's path -> the address


def is_url(text: str) -> bool:
    """Whether a source is written as an address on the network."""
    return re.match(r"(?i)https?://", text) is not None


def without_keys(text: str) -> str:
    """An address without its user, password and query; any other text as it is."""
    if not is_url(text):
        return text
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def enlist_url(url: str) -> tuple[str, str]:
    """Allows an address to be fetched; returns the name and the path of its row."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    name = "/".join(part for part in (host + parts.path).split("/") if part not in ("", ".", ".."))
    if _listed.get(_path(parts.scheme, name), url) != url:  # it differs in what the name leaves out
        stem, dot, ending = name.rpartition(".") if "." in name.rpartition("/")[2] else (name, "", "")
        name = f"{stem}~{hashlib.blake2b(url.encode(errors='replace'), digest_size=4).hexdigest()}{dot}{ending}"
    _listed[_path(parts.scheme, name)] = url
    return name, _path(parts.scheme, name)


def _path(scheme: str, name: str) -> str:
    return str(Path(f"{scheme.lower()}:/{name}"))


def fetch(path: str | Path) -> bytes | None:
    """The bytes at the address of a row's path; None where no address was listed for it.

    Raises:
        ImageError: it cannot be had; says why.
    """
    url = _listed.get(str(path))
    if url is None:
        return None
    begun = time.monotonic()
    try:
        with _opener().open(urllib.request.Request(_ascii(url), headers={"User-Agent": "zsad"}), timeout=_SILENT) as answer:
            if int(answer.headers.get("Content-Length") or 0) > _LARGEST:
                raise _too_large()
            data = bytearray()
            while piece := answer.read(_PIECE):
                data += piece
                if len(data) > _LARGEST:
                    raise _too_large()
                if time.monotonic() - begun > _LONGEST:
                    raise ImageError(f"cannot be fetched: it took more than {_LONGEST:g} s. Fetch it by other means")
            return bytes(data)
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"cannot be fetched: HTTP {error.code} {error.reason}. Check the address") from None
    except (http.client.InvalidURL, UnicodeError, ValueError):  # whose text quotes the address
        raise ImageError("cannot be fetched: that is no valid address. Check it") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        text = getattr(reason, "strerror", None) or reason or type(error).__name__
        raise ImageError(f"cannot be fetched: {text}. Check the address and the network") from None


def _too_large() -> ImageError:
    return ImageError(f"is too large: more than {_LARGEST / 1e6:.0f} MB. Fetch it by other means")


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https alone, also where an answer leads elsewhere."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _ascii(url: str) -> str:
    """The address with a host in ASCII and all else escaped."""
    parts = urlsplit(url)
    host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    return urlunsplit((parts.scheme, host, quote(parts.path, _KEPT), quote(parts.query, _KEPT), ""))
