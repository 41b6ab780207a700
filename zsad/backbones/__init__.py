"""Image(-text) encoders. Every module here is imported, so that it can register what it loads."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
