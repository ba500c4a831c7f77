"""The scripts of Bokeh, which draws a page's timeline: the one module that knows it.

Ref: https://docs.bokeh.org (BokehJS; bokeh.resources).
"""

from __future__ import annotations

from bokeh.resources import Resources


def scripts() -> list[str]:
    """Return what a page needs of Bokeh, so that nothing is fetched."""
    return list(_RESOURCES.js_raw)


# It tells the browser's console of nothing but what is wrong.
_RESOURCES = Resources(mode="inline", components=["bokeh", "bokeh-api"], log_level="warn")
