"""A Griffe extension that turns the reStructuredText of docstrings into the site's Markdown.

Docstrings name things as ``:class:`x` `` and give formulas as ``.. math::`` and ``:math:``. The
site loads no script that sets formulas, so they are shown as they are written.
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

from griffe import Extension, Object

_MATH = re.compile(
    r"^(?P<indent> *)\.\. math:: *(?P<first>[^\n]*)\n(?P<rest>(?: *\n| +\S.*\n?)*)", re.M
)
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")
_LITERAL = re.compile(r"::\n(?=\n {4})")
_INLINE_MATH = re.compile(r":math:`([^`]+)`")


def to_markdown(text: str) -> str:
    """Return a docstring with its roles and formulas as Markdown code."""
    text = _LITERAL.sub(":\n", _MATH.sub(_as_block, text))
    return _INLINE_MATH.sub(r"``\1``", _ROLE.sub(r"`\1`", text))


def _as_block(found: re.Match[str]) -> str:
    lines = [found["first"].strip(), *dedent(found["rest"]).strip().splitlines()]
    body = "\n".join(f"{found['indent']}{line}" for line in lines if line)
    return f"{found['indent']}```text\n{body}\n{found['indent']}```\n\n"


class Roles(Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
