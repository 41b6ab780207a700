"""The directive ``command-line``: every command of ``zsad`` with its arguments and options, from the program itself."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from zsad.cli import app as program


def plain(text: str | None) -> str:
    """A help text without markup, one paragraph."""
    return re.sub(r"\[/?[a-z ]+\]", "", " ".join((text or "").split()))


def names(option: Any) -> str:
    """``--tile VALUE``, ``--resume, --no-resume``, or the upper-case name of an argument."""
    if option.param_type_name == "argument":
        return str(option.metavar or option.name).upper()
    every = ", ".join([*option.opts, *option.secondary_opts])
    return every if option.is_flag or option.count else f"{every} {option.metavar or 'VALUE'}"


def explained(option: Any) -> str:
    """The help, and the default where there is one."""
    default = option.default
    told = isinstance(default, (str, int, float)) and not isinstance(default, bool) and default != ""
    return plain(option.help) + (f" Default: {default}." if told else "") + (" Required." if option.required else "")


def flat(group: Any) -> list[tuple[str, Any]]:
    """Commands by name; those of a group within as "prompts show"."""
    below = ((name, command, getattr(command, "commands", None)) for name, command in group.commands.items())
    return [
        one
        for name, command, own in below
        for one in ([(f"{name} {sub}", inner) for sub, inner in own.items()] if own else [(name, command)])
    ]


class CommandLine(SphinxDirective):
    """One section per command."""

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        group: Any = get_command(program)
        found: list[nodes.Node] = []
        for name, command in flat(group):
            labels = [f"zsad-{name}".replace(" ", "-")]
            if name.endswith(" show"):  # what the group's own name runs
                labels.append(f"zsad-{name.removesuffix(' show')}")
            section = nodes.section(ids=labels, names=labels)
            section += nodes.title(text=f"zsad {name}")
            section += nodes.paragraph(text=plain(command.help))
            section += self.parameters(command)
            self.state.document.note_explicit_target(section)
            found.append(section)
        return found

    def parameters(self, command: Any) -> nodes.definition_list:
        """Arguments and options with their help."""
        rows = nodes.definition_list()
        for one in command.params:
            if one.name == "help" or getattr(one, "hidden", False):
                continue
            row = nodes.definition_list_item()
            row += nodes.term("", "", nodes.literal(text=names(one)))
            row += nodes.definition("", nodes.paragraph(text=explained(one)))
            rows += row
        return rows


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
