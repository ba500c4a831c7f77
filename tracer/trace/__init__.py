"""The records of a run: written, read, named, chosen, folded, counted."""

from __future__ import annotations

from tracer.trace.record import Intercept

__all__ = (
    "Intercept",
    "allowed",
    "block",
    "call",
    "codec",
    "compiled",
    "configuration",
    "event",
    "flame",
    "flat",
    "fold",
    "inputs",
    "layout",
    "lines",
    "loss",
    "marker",
    "mask",
    "member",
    "met",
    "name",
    "naming",
    "phase",
    "place",
    "polls",
    "reader",
    "record",
    "recorder",
    "recovery",
    "registers",
    "site",
    "summary",
    "tape",
    "waiting",
    "waiting_words",
    "wire",
    "writer",
)
