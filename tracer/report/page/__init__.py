"""A trace as one page of HTML that a browser opens from a file, without a server or a network.

:mod:`.contents` reads the trace, :mod:`.document` writes the page. What runs in it are the
``*.js`` files beside, in the order of :data:`tracer.report.page.document.SCRIPTS`, and Bokeh's.
"""

__all__ = ("contents", "document", "plotting")
