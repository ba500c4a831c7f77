"""The outermost element of an XML file, which tells what it describes.

Ref: CMSIS-SVD 1.3.10, "SVD File Schema Levels"; IEEE Std 1685 (IP-XACT), 6.1.
"""

from __future__ import annotations

import codecs
from typing import NoReturn
from xml.parsers import expat

from tracer.devices.writing import cleaned
from tracer.errors import UsageError

_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CUT = frozenset(
    expat.errors.codes[told]
    for told in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
)


def is_markup(data: bytes) -> bool:
    """Return whether a file looks like XML; Perl in a SystemRDL file, ``<%``, does not."""
    head = data[: 1 << 12].decode(_MARKS.get(data[:2], "utf-8"), errors="replace")
    head = head.lstrip("\ufeff \t\r\n")
    return head.startswith("<") and not head.startswith("<%")


def root_of(data: bytes, source: str) -> tuple[str, str]:
    """Return the namespace and the name of the outermost element.

    Raises UsageError, naming the file, where it is cut off, is no XML, or declares entities:
    these can stand for other files, or for more text than there is memory.
    """
    names: list[str] = []
    parser = expat.ParserCreate(namespace_separator=" ")

    def begin(name: str, _: object) -> None:
        names.append(name)
        parser.StartElementHandler = None

    def declare(name: str, *_: object) -> NoReturn:
        raise UsageError(
            f"{source} declares an entity, {cleaned(name)}, as no description of registers does"
        )

    parser.StartElementHandler = begin
    parser.EntityDeclHandler = declare
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        if error.code in _CUT:
            raise UsageError(
                f"{source} is cut off: it ends in line {error.lineno}, within an element"
            ) from None
        raise UsageError(f"{source} is no XML: {error}") from None
    except (ValueError, LookupError) as error:  # an encoding that Python has not
        raise UsageError(f"{source} is no XML: {cleaned(str(error))}") from None
    namespace, _, name = names[0].rpartition(" ")
    return namespace, name
