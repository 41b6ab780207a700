"""Methods that are registered for some tests and for no others."""

from __future__ import annotations

from importlib import import_module

import zsad


def registered_apart(*modules: str) -> dict[str, type]:
    """Imports modules that register methods, and takes these out of the registry again: name -> class."""
    methods = zsad.registry._methods
    known = dict(methods)
    for module in modules:
        import_module(module)
    return {name: methods.pop(name) for name in list(methods) if name not in known}
