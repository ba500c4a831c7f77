"""The form of the log, which its writer and its reader have in common."""

from __future__ import annotations

import re

import msgspec

from tracer.trace.member import Extent, Width
from tracer.trace.record import RegionInfo
from tracer.trace.wire import Hex, Wire
from tracer.x86.bus import Direction

VERSION = "20070824"

REGION = "vetrace region "
"""Opens a mark that announces a region; its members follow as JSON."""

ACCESS = "vetrace access "
"""Opens a mark that tells of the access of the ``UNKNOWN`` line behind it: :class:`Hidden`."""

USER = "vetrace user "
"""Opens a mark that tells what a person did."""

BEGINS = re.compile(r"\(begins ([0-9a-f]{2}) ([0-9a-f]{2}) ([0-9a-f]{2})\)")
"""The text of an instruction of which the log has the first three bytes of code alone."""


class Hidden(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hold what an ``UNKNOWN`` line does not tell of an access: see :mod:`tracer.trace.record`."""

    direction: Direction
    width: Width
    extent: Extent | None = None
    value: Hex | None = None


HIDDEN, REGION_INFO = Wire(Hidden), Wire(RegionInfo)
"""The JSON that stands in marks."""
