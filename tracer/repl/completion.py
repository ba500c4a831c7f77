"""What can stand where the cursor is, with the names of one guest."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tracer.confidential.call_name import HYPERCALL_NAMES, LEAF_NAMES
from tracer.confidential.handler import PROFILES
from tracer.confidential.tdx_host import CALLS
from tracer.confidential.tdx_leaf import LEAVES
from tracer.errors import UsageError
from tracer.host.named_file import at_home
from tracer.query.condition.vocabulary import NAMES, TEXTS, VALUES
from tracer.query.rule import VERBS
from tracer.repl.command import Command
from tracer.repl.context import Context
from tracer.repl.listing import Found, found, ranked
from tracer.trace.phase import PHASES
from tracer.x86.state import GPR

_CPU = tuple(f"${name}" for name in (*GPR, "rip", "rflags"))
_FACT = re.compile(r"[$\w]*\Z")

# A fact that is compared with a word, which is typed in part: `register == C`, `function~"nv`.
_COMPARED = re.compile(
    r"(?P<name>\w+)(?:\s*(?:==|!=|!?~)\s*|\s+is\s+(?:not\s+)?)"
    r"(?P<word>\"[^\"]*|'[^']*|[^\s\"'()&|]*)\Z"
)

# A condition takes such a word without quotes.
_BARE = re.compile(r"[A-Za-z_][\w.#:+\-\[\]]*", re.ASCII)

_ACCESS = {"ro": "read-only", "wo": "write-only"}

_BEHIND: dict[str, tuple[str, ...]] = {
    "symbol": ("symbol",),
    "verdict": ("profile",),
    "tdcall": ("leaf",),
    "hypercall": ("sub-function",),
    **dict.fromkeys(("read", "write", "access"), ("place", "if")),
}
"""What follows the first words of a break."""

Hints = Mapping[str, str]

# Letters from which on a function is found by any part of its name.
_PART = 3

# How many functions are told with their addresses.
_ADDRESSES = 50


class Candidates:
    """Find what completes a line.

    A command that takes a condition has ``if`` among what it expects.
    """

    def __init__(self, context: Context, *, fuzzy: bool = False) -> None:
        self._context = context
        self._fuzzy = fuzzy

    @cached_property
    def _loose(self) -> Candidates:
        return Candidates(self._context, fuzzy=True)

    def near(self, before: str) -> Found:
        """Return the same, but with all that has the word's letters in their order, best first.

        Registers are found without their region, functions by any part of their names.
        """
        return self._loose.of(before)

    def of(self, before: str) -> Found:
        """Return the word at the end of ``before``, and what it can become with a hint each."""
        text = before.rpartition(";")[2].lstrip()
        name, blank, rest = text.partition(" ")
        if not blank:
            return self._hinted(name, self._commands)
        try:
            item = self._context.commands.find(name.partition("/")[0])
        except UsageError:
            return Found("")
        if item.name == "display" and " " in rest:
            return self.of(rest)
        return self._argument(item, rest)

    def _argument(self, item: Command, rest: str) -> Found:
        words = rest.split(" ")
        last, before = words[-1], [word for word in words[:-1] if word]
        index = min(len(before), len(item.expects) - 1)
        if index < 0:
            return Found(last)
        takes_condition = any("if" in each for each in item.expects)
        kinds, told = item.expects[index], dict(item.words)
        if takes_condition and before and before[-1] in _BEHIND:
            kinds = _BEHIND[before[-1]]
            told.pop(before[-1], None)  # what it names follows
        if "if" in before or "(" in last:
            kinds = ("fact",) if takes_condition else ()
        if item.name == "rule" and before[-1:] == ["do"]:
            kinds = VERBS
        if "fact" in kinds:
            compared = _COMPARED.search(rest)
            if compared is not None and compared["name"] in TEXTS:
                return self._compared(compared["name"], compared["word"], rest)
            last = "".join(_FACT.findall(last))  # an operator may stand before it
        hints: dict[str, str] = {}
        if not before:
            kinds = tuple(each for each in kinds if item.takes(each, self._context.recording))
        for kind in kinds:
            hints |= {kind: told[kind]} if kind in told else self._names(kind, last)
        symbols = "symbol" in kinds and "symbol" not in told
        return self._hinted(last, hints, self._symbols_from(last) if symbols else ())

    def _names(self, kind: str, beginning: str) -> Hints:
        context = self._context
        match kind:
            case "region":
                return self._regions
            case "place":
                return self._places(beginning)
            case "break":
                return {str(item.number): item.text for item in context.run.breaks.items}
            case "rule":
                if context.recorded is not None:
                    return {}
                rules = context.control.host.rules.items
                return {str(rule.number): rule.text for rule in rules}
            case "command":
                return self._commands
            case "cpu":
                return self._cpu
            case "fact":
                return {name: hint for name, (_, hint) in NAMES.items()} | self._cpu
            case "profile":
                return {name: profile.kernels for name, profile in PROFILES.items()}
            case "leaf":
                return {name: LEAVES[number].answered for name, number in LEAF_NAMES.items()}
            case "sub-function":
                return {name: CALLS[number].answered for name, number in HYPERCALL_NAMES.items()}
            case "filter":
                return dict.fromkeys(context.user_filters, "a filter of your own")
            case "file":
                return dict.fromkeys(_files(beginning), "")
            case "symbol":
                return {}  # there are too many to hold in a dictionary for each key
        return {kind: ""}

    # Returns what a fact that stands for text can equal; a name that is no bare word, in quotes.
    def _compared(self, name: str, word: str, rest: str) -> Found:
        opened = word[:1] if word[:1] in ("'", '"') else ""
        if name in ("symbol", "function", "callers"):
            typed = word.removeprefix(opened)
            return self._hinted(typed, {}, self._symbols_from(typed))
        offered = dict.fromkeys(VALUES.get(name, ()), "")
        if name in _OF_FACT:
            offered |= _OF_FACT[name](self, rest)
        quote = opened or '"'
        told = {
            text if _BARE.fullmatch(text) and not opened else f"{quote}{text}{quote}": hint
            for text, hint in offered.items()
        }
        return self._hinted(word, told)

    def _hinted(self, word: str, hints: Hints, others: Sequence[str] = ()) -> Found:
        if not self._fuzzy:
            names = sorted([*(name for name in hints if name.startswith(word)), *others])
            return found(word, names, hints)
        told = dict(hints)
        for name in others[:_ADDRESSES]:
            address = self._context.address_of(name)
            told[name] = "" if address is None else f"{address:#x}"
        return found(word, ranked(word, [*hints, *others]), told)

    @property
    def _commands(self) -> dict[str, str]:
        context = self._context
        served = (item for item in context.commands if item.serves(context.recording))
        return {item.name: item.brief for item in served} | context.aliases

    # ---- names of the guest

    @cached_property
    def _symbols(self) -> list[str]:
        return sorted(self._context.run.symbols())

    def _symbols_from(self, beginning: str) -> Sequence[str]:
        names = self._symbols
        if self._fuzzy and len(beginning) >= _PART:
            return [name for name in names if beginning in name]
        return names[bisect_left(names, beginning) : bisect_left(names, f"{beginning}\U0010ffff")]

    @property
    def _cpu(self) -> dict[str, str]:
        cpu = self._context.cpu
        if cpu is None:
            return dict.fromkeys(_CPU, "")
        values = (*cpu.gpr, cpu.rip, cpu.rflags)
        return {name: hex(value) for name, value in zip(_CPU, values, strict=True)}

    @property
    def _regions(self) -> dict[str, str]:
        regions = self._context.regions.regions
        hints = dict.fromkeys(self._context.known.regions, "a device")
        for region in regions:
            size = region.end - region.start + 1
            hints[region.name] = f"{size:#x} bytes from {region.start:#x}"
        return hints

    # Regions, and the registers of the one that has been typed up to its point.
    def _places(self, beginning: str) -> dict[str, str]:
        hints = self._regions
        for region in list(hints):
            if beginning.startswith(f"{region}.") or (self._fuzzy and beginning):
                told = self._registers_of(region)
                # A word has no blank, and a point stands for it.
                hints |= {f"{region}.{name.replace(' ', '.')}": hint for name, hint in told.items()}
        return hints

    def _registers_of(self, region: str) -> dict[str, str]:
        known = self._context.names.map_of(region)
        hints = {}
        for name in () if known is None else known.names():
            found = known.find(name) if known is not None else []
            if not found:
                hints[name] = ""
                continue
            register = found[0].register
            about = ", ".join(filter(None, (register.description, _ACCESS.get(register.access))))
            hints[name] = f"+{found[0].offset:#x}  {about}".rstrip()
        return hints

    # Registers of the region that a break is for, of all regions where that is not said.
    def _registers(self, rest: str) -> dict[str, str]:
        regions = self._context.region_names()
        named = [region for region in regions if region in re.split(r"[\s.+]+", rest)]
        hints: dict[str, str] = {}
        for region in named or regions:
            hints |= self._registers_of(region)
        return hints

    def _devices(self, rest: str) -> dict[str, str]:
        regions = self._context.regions.regions
        return dict.fromkeys((owner for region in regions for owner in region.owners), "")

    def _phases(self, rest: str) -> dict[str, str]:
        been = (phase for phase, _ in self._context.summary.phases)
        return dict.fromkeys((*PHASES, *been), "")

    def _modules(self, rest: str) -> dict[str, str]:
        lexicon = self._context.known.words.get("module")
        return dict.fromkeys(sorted(lexicon.words()) if lexicon is not None else (), "")


_OF_FACT: dict[str, Callable[[Candidates, str], dict[str, str]]] = {
    "region": lambda self, rest: dict.fromkeys(self._context.region_names(), ""),
    "device": Candidates._devices,
    "register": Candidates._registers,
    "phase": Candidates._phases,
    "module": Candidates._modules,
}
"""What is known of this guest that a fact can be."""


def _files(beginning: str) -> Iterable[str]:
    head, slash, _ = beginning.rpartition("/")
    try:
        inside = sorted(at_home(Path(head + slash or ".")).iterdir())
    except (OSError, ValueError, UsageError):  # a name with a NUL is the second
        return []
    return [f"{head}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in inside]
