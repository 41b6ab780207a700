"""Modules of zsad that need no torch, imported by a program that a test starts without the package's own imports."""

from __future__ import annotations

from pathlib import Path

__all__ = ["LIGHT"]

# first line of a program: three seconds of CPU less, where what it then imports below zsad needs no torch
LIGHT = (
    "import sys, types; sys.modules['zsad'] = types.ModuleType('zsad'); "
    f"sys.modules['zsad'].__path__ = [{str(Path(__file__).resolve().parents[2] / 'zsad')!r}]\n"
)
