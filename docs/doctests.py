"""Griffe's extension: doctests at the end of a docstring become its section "Examples"."""

import re
import textwrap

import griffe

_DOCTEST = re.compile(r"^>>> ", re.MULTILINE)


class Doctests(griffe.Extension):
    """Indents doctests below "Examples:", since Markdown takes ">>>" for a quotation."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Changes the docstring of a module, class or function that was read."""
        found = obj.docstring and _DOCTEST.search(obj.docstring.value)
        if obj.docstring and found:
            text, at = obj.docstring.value, found.start()
            obj.docstring.value = f"{text[:at]}Examples:\n{textwrap.indent(text[at:], '  ')}"
