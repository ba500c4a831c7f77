"""The page's own reader of conditions, held against Python's: what one says the other says.

Conditions are made from the grammar's own tables with words of the trace, right and wrong ones, and
both readers are asked which accesses each chooses, or where it is refused and in which words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_browser import Page, page_browser

from tracer.cli import main
from tracer.devices import library
from tracer.errors import ConditionError
from tracer.query.condition.closure import COMPARISON
from tracer.query.condition.grammar import LEVEL, TOUCHED
from tracer.query.condition.lexeme import FOREIGN
from tracer.query.condition.vocabulary import NAMES, REGISTERS, TEXTS, VALUES
from tracer.query.sieve import Sieve
from tracer.query.words import choose
from tracer.trace.reader import TraceReader
from tracer.trace.record import Record

pytest.importorskip("bokeh")
ROOT = Path(__file__).parents[1]
DATA = ROOT / "data"
TRACES = {
    "stacks": DATA / "version-3.vtrace",
    "tdx": DATA / "version-3-tdx.vtrace",
    "nvme": ROOT / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst",
}

HAND_MADE = (
    "value & 1", "value & 0xff == 3", "0x10 <= offset < 0x18", "not value == 1", "!(value == 1)",
    "offset touches 0x14..0x1c", "address touches 0xfee000b0", "linear touches ..0x10",
    "region is nvme", "region is not nvme", "region == nvme.msix-table", "register is nvme.CC",
    "register is cc", "register ~ C*", "register !~ C*", "register == CC and value & 1",
    "symbol is nvme_reset_work", "symbol is nvme_*", "symbol ~ nvme_[a-q]*", "symbol ~ [!n]*",
    "callers is worker_thread", "callers == worker_thread", "callers ~ *probe*", "callers != x",
    "worker_thread == callers", "callers == callers", "'nvme' == region", "phase is kernel",
    "phase == 'initcall nvme_init'", "mark in ..", "mark in 'x'..", "mark in ..'x'",
    "mark not in 'before'..'after'", "mark in 'phase: '..", "mark == ''", "changes", "not changes",
    "changes and changes", "value & 1 and changes", "changes and value & 1", "changes == true",
    "time in 1.5s..", "time in ..1.2s", "time >= 1.1s", "time in 1s..0.5s", "time == 5ns",
    "-7 // 2 == -4", "-7 % 2 == 1", "7 // -2 == -4", "7 % -2 == -1", "~value & 0xf == 0",
    "1 << 1024 > 0", "1 << 1025 > 0", "1 << -1 > 0", "value >> 100 == 0", "value >> -1",
    "1 // 0", "value // (offset - 0x14)", "1 << offset == 1", "value << value", "-1 >> 200 == -1",
    "$rax == 0", "$eax & 1", "$ah", "$ax", "$rip > 0", "$RAX", "$rflags & 2", "$xyz", "$",
    "true", "false", "not not true", "true == false", "true and 1", "1 and 0", "0", "1 or value",
    "value == 1 or width == 4", "width == 4 or value == 1", "value == 1 and width == 9",
    "", "   ", "(", ")", "()", "value &", "value == ", "and", "value and", "region", "'text'",
    "value == region", "region < hpet", "value = 1", "value === 1", "a ? b", "region == nvm*",
    "region ~", "region ~ 'a b'", "region is", "region is not", "value is 1", "value ~ 1",
    "offset in 1", "offset in ..", "offset in 5..1", "value touches 1..2", "offset in 1..(2",
    "1..2", "value 1", "value == 1 2", "read", "direction == read", "direction == reed",
    "via is comp*", "via ~ x*", "space == memory", "space is port", "space == prot", "count == 1",
    "cpl == 0 and vcpu == 0", "seq in 3..5", "seq == 3 == 3", "1 < 2 < 3", "1 < 2 in 0..1",
    "mnemonic == mov", "mnemonic is mov*", "module == ''", "module is nvme", "function ~ *_*",
    "device == nvme", "device is nvme", "0x1_0 == 16", "0b101 == 5", "0o17 == 15", "010 == 10",
    "1__0", "0x", "1.5", "1.5x", "1_000ns == 1us", "1.s == 1s", "value == 0xg", "\tvalue == 1",
    "value\u00a0== 1", "value == 1\x00", "region == 'a''b'", 'region == "a""b"', "'open",
    "~ ~ value == value", "--1 == 1", "- value < 0", "(" * 30 + "1" + ")" * 30,
    "(" * 31 + "1" + ")" * 31, "+".join(["1"] * 99), "+".join(["1"] * 101), "x" * 1001,
    "mnemonic is cmpltps", "mnemonic == cmpltps", "mnemonic ~ cmplt*", "mnemonic ~ mov3*",
    "direction is ''", "direction == ''", "direction ~ ''", "mnemonic is ''", "via is c?*",
    "delta(time) > 1", "delta", "value == delta (1",
    "nosuchname == 1", "msr == 1", "port touches 1", "leaf == 1 or true", "subleaf == 0",
    "extent == width", "offset touches value", "offset touches 0x10", "not in", "value not in 1..2",
    "value not 1", "region is not not", "region is 'not'", "regions is nvme", "value == (1 == 1)",
    "register is CAP", "register == CAP", "register == 'CAP+4'", "register is 'CAP+4'",
    "region == []", "symbol == a[0]", "symbol ~ [", "symbol ~ []]*", "symbol ~ *[0-9]",
    "symbol ~ *[9-0]", "symbol ~ *[!9-0]", "function == constructor", "region == __proto__",
    "toString == 1", "value == toString", "$constructor",
)  # fmt: skip

OF_EACH_TRACE = 500
"""How many conditions are made up for a trace."""


class Maker:
    """Make conditions up, most of them right; the same ones each time."""

    def __init__(self, words: dict[str, list[str]], numbers: list[int]) -> None:
        self._random = random.Random(16)
        self._words, self._numbers = words, numbers
        self._texts = sorted(TEXTS)
        self._numeric = sorted(n for n, (kind, _) in NAMES.items() if kind == "number")
        self._numeric.remove("count")

    def condition(self) -> str:
        text = self._truth(3)
        return self._spoilt(text) if self._random.random() < 0.2 else text

    # Loses, doubles or changes a piece.
    def _spoilt(self, text: str) -> str:
        pieces = text.split(" ")
        at = self._random.randrange(len(pieces))
        match self._random.randrange(4):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, pieces[self._random.randrange(len(pieces))])
            case 2:
                pieces[at] = self._pick([*FOREIGN, "in", "is", "not", "..", "~", "(", ")", "zz"])
            case 3:
                pieces[at] = pieces[at][:-1]
        return " ".join(pieces)

    def _pick(self, several: Any) -> Any:
        several = list(several)
        return several[self._random.randrange(len(several))]

    def _truth(self, depth: int) -> str:
        if depth and self._random.random() < 0.5:
            inner = [self._truth(depth - 1) for _ in range(self._random.choice((1, 2, 2, 3)))]
            joined = self._pick((" and ", " or ", " && ", " || ")).join(inner)
            return self._pick((f"({joined})", joined, f"not ({joined})"))
        return self._pick(
            (self._compared, self._compared, self._ranged, self._named, self._equal, self._other)
        )()

    def _compared(self) -> str:
        terms = [self._number(2) for _ in range(self._pick((2, 2, 3)))]
        return "".join(
            f" {self._pick(COMPARISON)} {term}" if n else term for n, term in enumerate(terms)
        )

    def _number(self, depth: int) -> str:
        if depth and self._random.random() < 0.4:
            sign = self._pick(LEVEL)
            return f"{self._number(depth - 1)} {sign} {self._number(depth - 1)}"
        kind = self._random.randrange(8)
        if kind < 4:
            return str(self._pick(self._numeric))
        if kind == 4:
            return f"${self._pick(REGISTERS)}"
        if kind == 5:
            return f"{self._pick('-~')}{self._number(0)}"
        number = self._pick(self._numbers)
        return self._pick((hex(number), str(number), bin(number & 0xFF), f"{number % 4000}us"))

    def _ranged(self) -> str:
        first, last = sorted((self._pick(self._numbers), self._pick(self._numbers)))
        ends = self._pick((f"{first:#x}..{last:#x}", f"{first}..", f"..{last}"))
        if self._random.random() < 0.5:
            return f"{self._pick(TOUCHED)} touches {ends}"
        return f"{self._pick(self._numeric)} {self._pick(('in', 'not in'))} {ends}"

    def _word(self, name: str) -> str:
        word = str(self._pick(self._words.get(name) or ["nothing"]))
        kind = self._random.randrange(4)
        if kind == 0 and word:
            word = word[: self._random.randrange(len(word)) + 1] + "*"
        elif kind == 1:
            word = word.partition("+")[0].partition(".")[0]
        return word

    def _named(self) -> str:
        name = self._pick(self._texts)
        sign = self._pick(("is", "is not", "~", "!~"))
        word = self._word(name)
        quoted = '"' + word.replace('"', '""') + '"'
        return f"{name} {sign} {word if word and ' ' not in word else quoted}"

    def _equal(self) -> str:
        name = self._pick(self._texts)
        word = self._word(name).rstrip("*")
        return f'{name} {self._pick(("==", "!="))} "{word}"'

    def _other(self) -> str:
        marks = self._words["mark"] or ["x"]
        return str(self._pick((
            "changes", "not changes", "true", "value", f"mark in '{self._pick(marks)}'..",
            f"mark in ..'{self._pick(marks)}'", f"mark not in '{self._pick(marks)[:3]}'..'e'",
        )))  # fmt: skip


def read(path: Path) -> list[Record]:
    with TraceReader(path) as trace:
        return list(trace)


def words_of(records: list[Record]) -> tuple[dict[str, list[str]], list[int]]:
    """Return texts that the facts of a trace have, by name, and some numbers."""
    words: dict[str, set[str]] = {name: set(VALUES.get(name, ())) for name in TEXTS}
    numbers: set[int] = {0, 1, 4, 0x14, 0x1C}
    told = [name for name in TEXTS if name != "callers"]

    class Asking(Sieve):
        def wanted(self, record: Record) -> Any:
            found = super().wanted(record)
            for (seq, access), named in zip(found, self.named, strict=True):
                facts = self._facts.at(record, access, seq, named)  # type: ignore[arg-type]
                for name in told:
                    words[name].add(str(facts[name]))
                words["callers"].update(facts.callers or ())
                numbers.update((access.value or 0, access.offset or 0, access.linear, seq))
            return found

    sieve = Asking(choose(), library.load())
    for record in records:
        sieve.wanted(record)
    return {name: sorted(found) for name, found in words.items()}, sorted(numbers)


Answer = tuple[list[int] | None, int, str]


def by_python(text: str, records: list[Record]) -> Answer:
    """Return the accesses that a condition chooses, or the column and words of its refusal."""
    try:
        sieve = Sieve(choose(text), library.load())
        found = [seq for record in records for seq, _ in sieve.wanted(record)]
    except ConditionError as error:
        return None, error.column, bare(str(error))
    return found, 0, ""


# Readers differ in what they take for near, and the page does not say of which condition it is.
def bare(message: str) -> str:
    return message.partition("; did you mean")[0].partition("; there are")[0]


ASK = """
const answers = [];
for (const text of given[0]) {
  try {
    const { found } = await vetrace.matching(text);
    answers.push([Array.from(found, i => vetrace.accesses.seq[i]), 0, ""]);
  } catch (reason) {
    if (!(reason instanceof vetrace.Refusal)) throw new Error(`${text}: ${reason.stack}`);
    answers.push([null, reason.column, reason.message]);
  }
}
return answers;
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with page_browser() as browser:
        yield browser


@pytest.mark.parametrize("name", TRACES)
def test_both_readers_say_the_same(name: str, page: Page, tmp_path: Path) -> None:
    result = tmp_path / "report.html"
    assert main.main(["report", str(TRACES[name]), "-o", str(result)]) == 0
    page.open(result)
    records = read(TRACES[name])
    maker = Maker(*words_of(records))
    conditions = [*HAND_MADE, *(maker.condition() for _ in range(OF_EACH_TRACE))]
    answers = page.run(ASK, conditions)
    differing = []
    chosen = refused = 0
    for text, (found, column, message) in zip(conditions, answers, strict=True):
        expected = by_python(text, records)
        if (found, column, bare(message)) != expected:
            differing.append((text, found, column, message, expected))
        chosen += bool(found)
        refused += found is None
    assert not differing, "\n".join(map(str, differing[:20]))
    # Conditions that choose nothing would agree with a reader that finds nothing.
    assert chosen > len(conditions) / 10
    assert refused > len(conditions) / 20
