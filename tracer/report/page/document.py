"""The page itself: markup, style, scripts and what was read of the trace, in one file.

A trace may be of a hostile guest, and its texts are not to be trusted. They are in the page once,
as JSON in an element that is no script and that no text in it can end; scripts show them as text;
and the page's policy lets those scripts alone run that were written here, and fetches nothing.

Ref: HTML, 4.12.1.3 (what may stand in a script element); Content Security Policy Level 3, 6.7.3.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from msgspec import json

from tracer.text.printable import encodable, printable

SCRIPTS = (
    "shown.js", "condition.js", "facts.js", "lanes.js", "list.js", "detail.js", "views.js",
    "main.js",
)  # fmt: skip
"""The page's own scripts, in their order; together they are one."""


def document(
    traces: Sequence[Mapping[str, Any]],
    difference: Mapping[str, Any] | None,
    plotting: Sequence[str],
) -> Iterator[str]:
    """Yield the page of a trace, or of two and their difference, in pieces.

    ``plotting`` are the scripts of the library that draws.
    """
    folder = files("tracer.report.page")
    own = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    scripts = [*map(_ended, plotting), _ended(f'"use strict";\n(() => {{\n{own}\n}})();\n')]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline';"
        " img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )
    title = escape(printable(" and ".join(str(each["trace"]["name"]) for each in traces)))
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - vetrace</title>\n<style>\n"
    )
    yield (folder / "page.css").read_text(encoding="utf-8")
    yield "</style>\n</head>\n<body>\n"
    yield (folder / "page.html").read_text(encoding="utf-8")
    data = {f"trace-{number}": each for number, each in enumerate(traces, 1)}
    for name, each in {**data, "differences": difference}.items():
        if each is not None:
            yield f'<script type="application/json" id="{name}">'
            yield _data(each)
            yield "</script>\n"
    for script in scripts:
        yield f"<script>{script}</script>\n"
    yield "</body>\n</html>\n"


# Within a string "<" can be written as its number, and elsewhere in JSON there is none.
def _data(contents: Mapping[str, Any]) -> str:
    return json.encode(encodable(dict(contents))).decode().replace("<", "\\u003c")


# No script of a library ends the element that it is in.
def _ended(script: str) -> str:
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _digest(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()
