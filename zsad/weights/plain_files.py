"""Weights at plain addresses: a download that is announced with its size, once, into torch's folder of checkpoints."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import torch

from zsad.errors import WeightsUnavailable

__all__ = ["fetched_once", "plain_folder"]

log = logging.getLogger("zsad")
SILENT = 20.0  # seconds without an answer
PIECE = 1 << 20


def plain_folder() -> Path:
    """Where such files lie: ``checkpoints`` of torch's hub, which ``TORCH_HOME`` moves."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetched_once(name: str, url: str, file: str = "") -> Path:
    """The file of an address, from the folder or by a download into it.

    Args:
        name: of what the file is part of, for the messages.
        url: https address.
        file: name below ``plain_folder``; "" is the address's own.

    Raises:
        WeightsUnavailable: ``HF_HUB_OFFLINE`` is set, nothing answers, or the answer is cut short.
    """
    target = plain_folder() / (file or url.rpartition("/")[2])
    if target.is_file():
        return target
    advice = f"Either connect to the network once, or put the file from {url} to {target}."
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise WeightsUnavailable(f"{target.name} of {name} is not here, and HF_HUB_OFFLINE is set. {advice}")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with urllib.request.urlopen(url, timeout=SILENT) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            log.warning("Downloading %s of %s: %.1f MB from %s to %s", target.name, name, size / 1e6, url, target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as out:
                shutil.copyfileobj(answer, out, PIECE)
        if size and (found := partial.stat().st_size) != size:
            raise WeightsUnavailable(f"{target.name} of {name} ended after {found} of {size} bytes. Try again. {advice}")
        partial.replace(target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsUnavailable(f"{target.name} of {name} could not be fetched: {reason}. {advice}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target
