"""The source of ``zsad predict`` and ``zsad watch``: a path, a pattern, or a list of paths."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from zsad.common.file_names import many, printable
from zsad.errors import SourceNotFound, UsageError
from zsad.images.formats import passed_over_line
from zsad.images.path_lists import read_paths
from zsad.images.reading import ImageRef, list_images
from zsad.images.side_masks import SideMasks, find_masks

__all__ = ["Source", "TakesPaths"]


class Source:
    """The pictures that a command line names.

    Args:
        text: a path or a pattern; "-" for a list of paths on standard input; "@file" for a list in a file. A path that exists
            is taken as it stands.
        null: the paths of a list end in NUL characters instead of lines.
        skip_masks: whether masks beside their pictures are left out: "on", "off", or "auto", where every picture has one and
            all are black and white.
        every: time from one frame of a video to the next: "1s", "500ms", "2m"; "frame" for every frame.
        allow_urls: http and https addresses are fetched.

    Attributes:
        passed_over: number of files in folders that are no pictures, by ending; of the last complete listing.

    Raises:
        SourceNotFound: the list cannot be read or holds no path.
        UsageError: ``null`` without a list, or ``every`` is no time.
    """

    def __init__(
        self, text: str, *, null: bool = False, skip_masks: str = "off", every: str = "1s", allow_urls: bool = False
    ) -> None:
        self.text, self.skip_masks = text, skip_masks
        is_list = text == "-" or (text.startswith("@") and not os.path.lexists(text))
        if null and not is_list:
            raise UsageError(f"-0 is for lists of paths, and the source is {text!r}. Give '-' or '@list.txt', or leave -0 out.")
        self._given: Any = read_paths(_read(text), _name(text), null=null) if is_list else text
        self.passed_over: dict[str, int] = {}
        self._options: dict[str, Any] = {"whole_names": is_list, "every": _seconds(every), "allow_urls": allow_urls}
        self._masks: SideMasks | None = SideMasks() if skip_masks == "off" else None

    def refs(self) -> Iterator[ImageRef]:
        """Lists the pictures; may be called again."""
        left_out = self.masks_left_out
        return (ref for ref in self._listed() if ref.name not in left_out)

    def _listed(self) -> Iterator[ImageRef]:
        passed_over = Counter[str]()
        yield from list_images(self._given, passed_over=passed_over, **self._options)
        self.passed_over = dict(sorted(passed_over.items()))

    @property
    def masks(self) -> SideMasks:
        """The masks beside their pictures; none where nobody asked for them."""
        if self._masks is None:
            self._masks = find_masks(self._listed)
        return self._masks

    @property
    def masks_left_out(self) -> frozenset[str]:
        """Names of the masks that are left out."""
        sure = self.skip_masks == "on" or (self.masks.complete and not self.masks.doubtful)
        return self.masks.names if sure else frozenset()

    def facts(self) -> dict[str, Any]:
        """For run.json: what of the source is no picture of the run."""
        return {"passed_over": self.passed_over, "masks_left_out": len(self.masks_left_out)}

    def report(self) -> None:
        """Prints lines on stderr about files that were passed over and about masks beside their pictures, if any."""
        if self.passed_over:
            typer.echo(f"zsad: {passed_over_line(self.passed_over)}", err=True)
        if not self.masks.names:
            return
        like = f"{many(len(self.masks.names), 'file')} such as {printable(min(self.masks.names))}"
        if self.masks_left_out:
            typer.echo(f"zsad: left out as masks of pictures beside them: {like}; --skip-masks off scores them.", err=True)
        else:
            why = "not all are black and white" if self.masks.doubtful else "not every picture has one"
            typer.echo(f"zsad: scored though they look like masks: {like} ({why}); --skip-masks on leaves them out.", err=True)


_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) *(ms|s|min|m|h|)", text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds and text != "frame":
        raise UsageError(f"--every takes a time above 0, such as 1s, 500ms or 2m, or frame for every frame; got {text!r}.")
    return seconds


def _name(text: str) -> str:
    return "The list on standard input" if text == "-" else f"The list {text[1:]!r}"


def _read(text: str) -> bytes:
    if text != "-":
        try:
            return Path(text[1:]).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceNotFound(f"{_name(text)} cannot be read: {reason}. Check its path.") from error
    if sys.stdin is None or sys.stdin.closed:
        raise SourceNotFound("There is no standard input to read a list from. Give @list.txt, or pipe the list in.")
    if sys.stdin.isatty():
        raise SourceNotFound(
            "'-' reads a list from standard input, and that is a terminal: find photos -type f | zsad predict -"
        )
    return sys.stdin.buffer.read()


class TakesPaths(TyperCommand):
    """A command whose arguments may be existing files with names that look like options, such as ``-x.png``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Writes such a name as ``./-x.png``, unless it is the value of an option."""
        options = {name: one for one in self.params for name in (*one.opts, *one.secondary_opts)}
        takes_value = {name for name, one in options.items() if isinstance(one, TyperOption) and not one.is_flag}
        plain, before = list(args), ""
        for index, text in enumerate(args[: args.index("--")] if "--" in args else args):
            odd = text.startswith("-") and text != "-" and text.partition("=")[0] not in options and before not in takes_value
            if odd and os.path.lexists(text):
                plain[index] = f"./{text}"
            before = text
        return super().parse_args(ctx, plain)
