"""Places that are no memory: ports, MSRs, leaves of CPUID and vectors, as a person names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tracer.access.region import RegionMap
from tracer.errors import UnknownName, UsageError, advice
from tracer.query.condition import Condition, parse
from tracer.query.condition.lexeme import quoted
from tracer.query.condition.vocabulary import Facts
from tracer.query.place import Known
from tracer.text.number import ends, whole
from tracer.text.span import Span
from tracer.trace.member import Space
from tracer.trace.name import names_region

_LIKE: dict[Space, str] = {
    "port": "port 0x64, port 0x60-0x6f and port i8042-data are",
    "msr": "msr 0xc0000080 and msr EFER are",
    "cpuid": "cpuid 0x21, cpuid 7.1 and cpuid FEATURES are",
    "irq": "irq 0x30 is, and irq 0x30-0x3f is",
    "msi": "msi 0x4023 is, and msi 0x4020-0x402f is",
}
INPUT_WORDS: tuple[Space, ...] = tuple(_LIKE)
"""The words that such a place begins with."""

_BITS: dict[Space, int] = {"port": 16, "msr": 32, "cpuid": 32, "irq": 8, "msi": 32}


@dataclass(frozen=True, slots=True)
class InputSpot:
    """Hold a place among the inputs of one kind; ``told`` is the condition that says which.

    ``of_register`` tells that it is one of the registers which CPUID gives, ``span`` has the
    numbers of all that it can be, where these are known.
    """

    space: Space
    text: str
    told: str
    of_register: bool = False
    span: Span | None = None
    condition: Condition = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile what it is short for."""
        object.__setattr__(self, "condition", parse(self.told))

    @property
    def spots(self) -> Sequence[InputSpot]:
        """Return what it consists of, as of a place in memory."""
        return (self,)

    def holds(self, facts: Facts) -> bool:
        """Tell whether an access is one of these."""
        return self.condition.holds(facts)

    def ranges(self, regions: RegionMap) -> Iterator[range]:
        """Yield nothing: it has no physical addresses."""
        return iter(())


def parse_input_place(words: Sequence[str], known: Known) -> InputSpot:
    """Return the place that words name, of which the first is one of :data:`INPUT_WORDS`.

    Raises UsageError.
    """
    space = next(space for space in _LIKE if space == words[0])
    check_recorded(space, known)
    text = " ".join(words)
    if len(words) > 2:
        raise UsageError(f"{words[2]} cannot follow {words[1]}: {_LIKE[space]}")
    told = f"space == {space}"
    if len(words) == 1:
        return InputSpot(space, text, told)
    word = words[1]
    if word[:1].isdigit():
        return InputSpot(
            space, text, f"{told} and {_numbered(space, word)}", span=_numbers(space, word)
        )
    if not known.pending:
        for way in (_region, _register, _group):
            found = way(space, word, known)
            if found is not None:
                alone = way is _register and space == "cpuid"
                return InputSpot(space, text, f"{told} and {found}", of_register=alone)
        raise UnknownName(f"no {space} is called {word}{_advice(space, word, known)}")
    names = [f"register is {quoted(word)}", f"register is {quoted(f'{word}.*')}"]
    if space == "port":
        names.append(f"region is {quoted(word)}")
    return InputSpot(space, text, f"{told} and ({' or '.join(names)})", of_register="." in word)


def check_recorded(space: Space, known: Known) -> None:
    """Raise UsageError where inputs of a kind are not recorded: then nobody is asked about them."""
    if known.inputs is None or space in known.inputs:
        return
    if known.inputs:
        there = ",".join(known.inputs)
        raise UsageError(
            f"{space} is not among the inputs that are recorded: boot with --inputs={there},{space}"
        )
    raise UsageError(f"{space} is an input, and none are recorded: boot with --inputs")


def _numbered(space: Space, word: str) -> str:
    number = partial(whole, what=_WHAT[space], bits=_BITS[space], like=_LIKE[space])
    if space == "cpuid":
        leaf, dot, subleaf = word.partition(".")
        if dot:
            return f"leaf == {number(leaf):#x} and subleaf == {number(subleaf):#x}"
    first, last = ends(word, number)
    return _span(space, first, last)


def _numbers(space: Space, word: str) -> Span:
    return Span(*ends(word.partition(".")[0] if space == "cpuid" else word, whole))


_WHAT: Mapping[Space, str] = {
    "port": "port", "msr": "index of an MSR", "cpuid": "leaf of CPUID", "irq": "vector",
    "msi": "data of a message",
}  # fmt: skip


def _span(space: Space, first: int, last: int) -> str:
    match space:
        case "port":
            return f"address touches {first:#x}..{last:#x}"
        case "cpuid":
            return f"leaf in {first:#x}..{last:#x}"
        case "msi":
            return f"data in {first:#x}..{last:#x}"
        case _:
            return f"address in {first:#x}..{last:#x}"


def _region(space: Space, word: str, known: Known) -> str | None:
    # A region of ports, by its name here or by QEMU's.
    if space != "port":
        return None
    named = [
        region for region in known.ports
        if word == region.qemu_name or names_region(word, region.name, region.owners)
    ]  # fmt: skip
    spans = dict.fromkeys((region.start, region.end) for region in named)
    return _any(_span(space, *span) for span in spans) if spans else None


def _register(space: Space, word: str, known: Known) -> str | None:
    span = None if known.span is None else known.span(space, word)
    if span is None or span.first is None or span.last is None:
        return None
    match space:
        case "port":
            return _span(space, span.first, span.last)
        case "msr":
            return _span(space, span.first // 8, span.first // 8)
        case _:
            return f"offset touches {span.first:#x}..{span.last:#x}"


def _group(space: Space, word: str, known: Known) -> str | None:
    # A leaf goes by the name that its four registers have in common.
    if space != "cpuid" or known.span is None:
        return None
    found = []
    for name in known.registers_of(space):
        if name.casefold().startswith(f"{word.casefold()}."):
            span = known.span(space, name)
            if span is not None and span.first is not None:
                found.append(span.first & -16)
    return _any(f"offset touches {at:#x}..{at + 15:#x}" for at in dict.fromkeys(found)) or None


def _any(parts: Iterator[str]) -> str:
    told = list(parts)
    return f"({' or '.join(told)})" if told else ""


def _advice(space: Space, word: str, known: Known) -> str:
    names = {name.partition(".")[0] for name in known.registers_of(space)}
    if space == "port":
        names |= {region.name for region in known.ports}
    return advice(word, names) if names else ""
