"""Audits in SARIF, which tools that collect findings read.

Ref: SARIF 2.1.0, OASIS Standard (27 March 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from tracer.confidential.audit import Audit, Place, Site
from tracer.text.printable import encodable, printable
from tracer.trace.record import Header

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"

_RULES = (
    ("oops", "error", "The handler of a confidential guest does not know the instruction",
     "The access ends the guest's kernel, or the program that makes it. Read and write the device"
     " by the helpers of io.h, which compile to a plain MOV."),
    ("differs", "warning", "The handler of a confidential guest has another result than the CPU",
     "The access is carried out, and what the instruction leaves behind is not what the CPU would"
     " leave."),
)  # fmt: skip


def sarif_log(audits: Sequence[Audit], header: Header, trace: str, version: str) -> dict[str, Any]:
    """Return a log with a run for each profile: what of the traced code would not survive."""
    runs = [_run(audit, header, trace, version) for audit in audits]
    log: dict[str, Any] = {"$schema": SCHEMA, "version": "2.1.0", "runs": runs}
    return log


def _run(audit: Audit, header: Header, trace: str, version: str) -> dict[str, Any]:
    rules = [
        {
            "id": name,
            "shortDescription": {"text": f"{short}."},
            "fullDescription": {"text": text},
            "defaultConfiguration": {"level": level},
        }
        for name, level, short, text in _RULES
    ]
    return {
        "tool": {"driver": {"name": "vetrace", "version": version, "rules": rules}},
        "automationDetails": {"id": f"vetrace-audit/{audit.profile.name}"},
        "artifacts": [{"location": {"uri": _uri(trace)}, "roles": ["analysisTarget"]}],
        "results": list(_results(audit, header, trace)),
        "columnKind": "unicodeCodePoints",
        "properties": {
            "profile": audit.profile.name,
            "kernels": audit.profile.kernels,
            "exits": audit.exits,
            "callSites": len(audit.sites),
            "unjudged": audit.unjudged,
        },
    }


def _results(audit: Audit, header: Header, trace: str) -> Iterator[dict[str, Any]]:
    numbers = {name: index for index, (name, *_) in enumerate(_RULES)}
    for site in audit.sites:
        differs = site.verdict.outcome == "emulated" and bool(site.verdict.note)
        if not site.fatal and not differs:
            continue
        rule = "oops" if site.fatal else "differs"
        why = site.verdict.reason if site.fatal else site.verdict.note
        name = _name(site)
        yield {
            "ruleId": rule,
            "ruleIndex": numbers[rule],
            "level": "error" if site.fatal else "warning",
            "message": {"text": f"{name}: {_shown(site.text)}: {_shown(why or rule)}"},
            "locations": [_location(site, name, header, trace)],
            "occurrenceCount": site.exits,
            "partialFingerprints": {
                "vetraceSite/v1": f"{name} {site.code.hex()}"
            },
            "properties": {
                "rip": hex(site.rip),
                "bytes": site.code.hex(),
                "regions": sorted(map(_shown, site.regions)),
            },
        }  # fmt: skip


# A trace has no lines of a source: the place is one in a binary, the kernel's or a module's. What
# has no symbol, as firmware and programs have none, is known from the trace alone.
def _location(site: Site, name: str, header: Header, trace: str) -> dict[str, Any]:
    binary = site.place.module or (header.kernel if site.place.function else trace)
    address: dict[str, Any] = {"fullyQualifiedName": name, "kind": "instruction"}
    if site.offset:
        address["offsetFromParent"] = int(site.offset, 16)
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(binary)}, "address": address}
    }
    if site.place.function is not None:
        function = _shown(site.place.function)
        logical = {"name": function, "fullyQualifiedName": name, "kind": "function"}
        location["logicalLocations"] = [logical]
    return location


def _name(site: Site) -> str:
    return _shown(f"{_function(site.place)}+{site.offset}") if site.offset else hex(site.rip)


def _function(place: Place) -> str:
    owner = f"{place.module}:" if place.module else ""
    return f"{owner}{place.function}"


# A URI reference: what has another meaning in one is written by its number.
def _uri(path: str) -> str:
    return quote(path, errors="surrogateescape")


def _shown(text: str) -> str:
    return printable(str(encodable(text)))
