"""Sphinx configuration of the documentation; ``python -m sphinx -W docs build/docs`` builds it without network."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from zsad.common.version import __version__ as release  # noqa: E402 (behind the path to it)

project = "zsad"
author = "the zsad authors"
copyright = "2026, the zsad authors"
version = release
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "command_line",
    "field_comments",
    "notebook_pages",
    "public_names",
    "repository_pages",
    "weights_table",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]

nitpicky = True
# Types of other packages, whose inventories would need the network, and of zsad's own inside.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|PIL|pathlib|collections|typing|nn)\..*"),
    (r"py:.*", r"(Path|Tensor|NDArray|Image|Any|Literal|Iterator|Sequence|Mapping|Collection)"),
    (r"py:.*", r"(Geometry|Reference|Scorer|MaskOf)"),
]
smartquotes = False  # options begin with two hyphens
suppress_warnings = ["myst.header"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autoclass_content = "both"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "judge"}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_exclude = ".linenos, .gp, .go"
html_theme = "furo"
html_title = f"zsad {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5fa5", "color-brand-content": "#0b5fa5"},
    "dark_css_variables": {"color-brand-primary": "#6cb6ff", "color-brand-content": "#6cb6ff"},
    "navigation_with_keys": True,
}
