"""The version of zsad, and those of the packages that a run depends on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__", "package_version", "versions"]

__version__ = "0.2.0.dev0"


@cache
def package_version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of zsad, Python and the named packages (None: not installed), as the files of a run state them."""
    own = {"zsad": __version__, "python": platform.python_version()}
    return own | {name: package_version(name) for name in packages}
