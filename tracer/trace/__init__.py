"""The records of a run: written, read, named, chosen, folded, counted."""

from __future__ import annotations

from tracer.trace.record import Intercept

__all__ = (
    "Intercept",
    "block",
    "codec",
    "event",
    "flame",
    "flat",
    "fold",
    "layout",
    "lines",
    "loss",
    "marker",
    "mask",
    "met",
    "naming",
    "phase",
    "reader",
    "record",
    "recorder",
    "recovery",
    "registers",
    "selection",
    "source",
    "summary",
    "wire",
    "words",
    "writer",
)
