"""The origins that accesses can have: what is known of all that an instruction makes by itself."""

from __future__ import annotations

from tracer.access.decision import Origin
from tracer.compiled.reading import parts
from tracer.confidential.handler import PROFILES, judge
from tracer.query.condition.vocabulary import SITE, Fact
from tracer.query.facts import Partial, function, module, site
from tracer.trace.summary import mnemonic

_KERNEL = 1 << 63
"""The lowest linear address of the kernel's half."""

# Numbers that memory does not have are those of nothing, so that no access has to be asked about.
_OF_MEMORY: dict[str, Fact] = {
    "space": "memory", "port": -1, "msr": -1, "leaf": -1, "subleaf": -1, "data": -1,
    "cause": (), "source": (),
}  # fmt: skip

NAMELESS = Partial({SITE: "", "symbol": "", "function": "", "module": " ", "$rip": -1})
"""Code that goes by no name, and is at no address."""


def facts_of_origin(origin: Origin) -> list[Partial]:
    """Return what is known of each access that an instruction makes without a stop.

    A program makes none, nor does what the vCPU has to carry out. Code without a name may have come
    by one when a stop asks for it, so that is unknown.
    """
    insn, symbol = origin.insn, origin.symbol
    known = Partial(
        {
            "$rip": insn.rip, "cpl": 0, "via": "emulated", "mnemonic": mnemonic(insn.text),
            **_OF_MEMORY,
        }
    )  # fmt: skip
    if symbol:
        known |= {
            SITE: symbol, "symbol": site(symbol), "function": function(symbol),
            "module": module(symbol),
        }  # fmt: skip
    made = parts(insn)
    if made is None:
        return [known]  # the device may be on either side
    kinds = {("write" if writes else "read", width) for writes, _, width in made}
    return [
        Partial({**known, "direction": direction, "width": width, "extent": width})
        for direction, width in sorted(kinds)
    ]


def may_refuse(profile: str, origin: Origin) -> bool:
    """Tell whether the handler of a profile, by its name, may not survive an instruction's access.

    It looks at the address as well: Linux maps devices for its own code in its half alone, and
    what crosses a page takes a stop anyway. Of code that has no name nobody knows.
    """
    if origin.symbol is None or origin.insn.rip < _KERNEL:
        return True
    return judge(PROFILES[profile], origin.insn).outcome == "oops"
