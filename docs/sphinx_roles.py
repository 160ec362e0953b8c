"""Links of the reference: ``:func:`name` `` in a docstring links to where the name is explained.

An extension of griffe, which reads the docstrings for mkdocstrings.
"""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class SphinxRoles(griffe.Extension):
    """Turns the roles in every docstring into links that may lead nowhere."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = _ROLE.sub(lambda role: _link(obj, *role.groups()), text)


def _link(obj: griffe.Object, short: str, name: str) -> str:
    first, _, rest = name.partition(".")
    try:
        path = name if first == "citysegzoo" else ".".join(filter(None, (obj.resolve(first), rest)))
    except griffe.NameResolutionError:
        path = name
    text = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{path}" optional><code>{text}</code></autoref>'
