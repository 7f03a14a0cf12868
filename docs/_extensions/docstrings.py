"""Bring numpydoc docstrings into the form that mkdocstrings shows well."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([\w.]+)`")
SEVERAL = re.compile(r"^( *)(\w+(?:, \w+)+)( ?: .*)?\n((?:\1 +.*(?:\n|\Z))+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turn roles into links, and ``a, b : int`` into one row for each parameter, with its own default."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self.mend(pkg)

    def mend(self, node: griffe.Object) -> None:
        if node.docstring is not None:
            text = node.docstring.value
            if isinstance(node, griffe.Class | griffe.Function):
                text = SEVERAL.sub(_one_each, text)
            node.docstring.value = ROLE.sub(lambda role: _link(node, *role.groups()), text)
        for member in node.members.values():
            if isinstance(member, griffe.Object):
                self.mend(member)


def _one_each(several: re.Match[str]) -> str:
    indent, names, kind, description = several.groups()
    return "".join(f"{indent}{name}{kind or ''}\n{description}" for name in names.split(", "))


def _link(node: griffe.Object, short: str, name: str) -> str:
    shown = name.rpartition(".")[2] if short else name
    try:
        target = name if name.startswith("tasklore.") else node.resolve(name)
    except griffe.NameResolutionError:
        return f"`{shown}`"
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'
