"""References to a class where it is defined lead to where it is public: ``zsad.detector.Detector`` to ``zsad.Detector``."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.reference | None:
    """The public object of the same name, where the reference names the module that defines it."""
    target = str(node.get("reftarget", ""))
    name = target.rpartition(".")[2]
    domain: Any = env.get_domain("py")
    homes = [full for full in domain.objects if full.rpartition(".")[2] == name and full.count(".") <= 2]
    if node.get("refdomain") != "py" or len(homes) != 1 or not (target.startswith("zsad.") or target == name):
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", homes[0], node, content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
