"""For mkdocstrings: Sphinx roles in docstrings (:func:`fastgan.fuse`) become links where these pages have the name, and
code where they have not; names such as __init__ are code, not bold."""

import re

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod):`~?([\w.]+)`")
_DUNDER = re.compile(r"(?<![`\w])(__\w+__)(?![`\w])")
_PAGES = re.compile(r"fastgan\.(?:functional|nn|data)\.\w+|fastgan\.(?:fuse|backend|set_backend)")


class Crossrefs(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = _DUNDER.sub(r"`\1`", _ROLE.sub(_link, obj.docstring.value))


def _link(role: re.Match[str]) -> str:
    name = role[1]
    return f"[`{name}`][{name}]" if _PAGES.fullmatch(name) else f"`{name}`"
