"""Breaks: the words that make them, what they match, and how they count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import stop_sample
import trace_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from tracer.access.decision import NO_LEEWAY, Leeway, Origin, Pending
from tracer.access.region import Region, RegionMap
from tracer.access.transfer import Transfer
from tracer.devices.map import Named
from tracer.errors import UsageError
from tracer.query.breakpoint import (
    Break,
    Breaks,
    Until,
    matches,
    parse_break,
    parse_condition,
    parse_pattern,
    parse_until,
)
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.vocabulary import COVERED, OWNERS
from tracer.query.facts import Course, Recorded
from tracer.query.pending import PendingFacts
from tracer.query.place import Known, parse_place
from tracer.text.span import Span
from tracer.trace.member import Via
from tracer.x86.bus import Direction
from tracer.x86.decode import decode
from tracer.x86.state import CpuState, Mode

NVME = Region("nvme", 0xFEBF0000, 0xFEBF1FFF, 0xFEBF0000, "nvme", "nvme")


OF_CALLS = (
    "a call has address, symbol, function, module, callers, vcpu, cpl, time, count, phase, mark, "
    "registers such as $r12"
)


def span_of(region: str, register: str) -> Span | None:
    return Span(0x14, 0x17) if (region, register) == ("nvme", "CC") else None


REGIONS = ("nvme", "nvme.msix-table", "hpet")
FUNCTIONS = ("nvme_reset_work", "nvme_pci_enable", "worker_thread")
KNOWN = Known(
    REGIONS,
    span_of,
    lambda region: ("CC", "CAP", "SQ0TDBL") if region == "nvme" else (),
    size=lambda region: 0x2000,
    answers=lambda first, last: first <= 0xFEBF1FFF and last >= 0xFEBF0000,
    words={
        "region": Lexicon("region", lambda: REGIONS),
        "register": Lexicon(
            "register", lambda: ("CC", "CAP", "SQ0TDBL"), lambda name: name == "SQ30TDBL"
        ),
        "function": Lexicon("function", lambda: FUNCTIONS),
        "symbol": Lexicon("function", lambda: FUNCTIONS, stem=lambda text: text.split("+")[0]),
        "module": Lexicon("module", lambda: ("nvme",)),
    },
)


def live(
    direction: Direction = "write",
    offset: int = 0x1000,
    value: int | None = 3,
    via: Via = "emulated",
    callers: tuple[str, ...] = (),
    code: str = "8903",
    width: int = 4,
) -> PendingFacts:
    """Return the facts of an access to the NVMe controller that is about to be made."""
    transfer = Transfer(
        direction, 0xFFFFC90000000000 + offset, NVME.base + offset, width, value, NVME, True, False
    )
    insn = decode(bytes.fromhex(code), 0xFFFFFFFF81000000, Mode.LONG)
    pending = Pending(
        seq=7, time_ns=2_000_000_000, vcpu=1, symbol="nvme_pci_enable+0x5e [nvme]",
        code=insn.code, insn=insn, cpu=CpuState(gpr=tuple(range(16))), space=stop_sample.space(),
        transfer=transfer,
        foretold=(transfer,), via=via,
    )  # fmt: skip
    names = {0x14: Named("CC", ()), 0x1000: Named("SQ0TDBL", ())}
    return PendingFacts(
        pending,
        register=lambda region, offset, width: names.get(offset),
        callers=lambda: callers,
        phase="initcall nvme_init",
    )


def test_facts_of_a_pending_access() -> None:
    facts = live()
    asked = ("region", "device", "register", "symbol", "function", "module", "mnemonic", "phase")
    assert [facts[name] for name in asked] == [
        "nvme", "nvme", "SQ0TDBL", "nvme_pci_enable+0x5e", "nvme_pci_enable", "nvme", "mov",
        "initcall nvme_init",
    ]  # fmt: skip
    assert (facts["$rbx"], facts["$rip"], facts["seq"], facts["vcpu"]) == (3, 0, 7, 1)
    assert (facts["offset"], facts["address"]) == (0x1000, 0xFEBF1000)


def test_facts_of_a_recorded_access() -> None:
    record = sample.intercept(
        2, sample.device("nvme", 0x14, 4, "write", 5), text="lock xadd dword ptr [rax], ecx"
    )
    facts = Recorded(Course()).at(record, record.accesses[0], 2, None)
    assert (facts["value"], facts["offset"], facts["seq"], facts["mnemonic"]) == (
        5,
        0x14,
        2,
        "xadd",
    )
    assert (facts["$rax"], facts["$rbx"], facts["register"]) == (0xFFFFC90000000000, None, "")
    assert facts["callers"] is None


@pytest.mark.parametrize(
    ("text", "facts", "hit"),
    [
        ("write nvme+0x1000 if value & 0xff == 3", live(), True),
        ("write nvme+0x1000 if value & 0xff == 3", live(value=4), False),
        ("read nvme+0x1000", live(), False),
        ("access nvme+0x1003", live(), True),
        ("nvme+0x1004", live(), False),
        ("nvme+0x1000-0x1fff", live(offset=0x1FFC), True),
        ("nvme", live(), True),
        ("nvm*", live(), True),
        ("hpet", live(), False),
        ("0xfebf1000", live(), True),
        ("0xfebf1004-0xfebf1fff", live(), False),
        ("nvme.CC", live(offset=0x14), True),
        ("nvme CC", live(offset=0x18), False),
        ("nvme sq*", live(), True),
        ("nvme.CC", live(offset=0x14, width=0), True),
        ("symbol nvme_reset_work", live(callers=("nvme_reset_work+0x2", "worker_thread")), True),
        ("symbol nvme_reset_work", live(), False),
        ("symbol nvme_pci_*", live(), True),
        ("unhandled", live(via="stepped"), True),
        ("unhandled", live(), False),
        ("verdict linux-tdx", live(), False),
        ("verdict linux-tdx", live(code="0103"), True),
        ("if $ebx == 3 and module == nvme", live(), True),
        ("verdict if cpl == 3", live(code="0103"), False),
    ],
)
def test_matches(text: str, facts: PendingFacts, hit: bool) -> None:
    assert matches(parse_break(text, KNOWN), facts) is hit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "break needs a place or a condition: nvme+0x1000, or if value == 3"),
        ("nvmw", "no region is called nvmw; did you mean nvme?"),
        ("wriet nvme", "no region is called wriet; did you mean write?"),
        ("xyz", "no region is called xyz; there are: hpet, nvme, nvme.msix-table"),
        ("nvme.CD", "nvme has no register CD; there are: CAP, CC, SQ0TDBL"),
        ("nvme+0xzz", "0xzz is no offset: 0x1000 is, and 0x1000-0x1fff are"),
        ("nvme+8-4", "8-4 ends before it begins"),
        ("nvme+8 CC", "nvme+8 says which bytes, so no register follows: CC"),
        ("0x12q", "0x12q is no physical address: 0x1000 is, and 0x1000-0x1fff are"),
        ("verdict linux-tdz", "no profile is called linux-tdz; did you mean linux-tdx?"),
        ("tdcall TDG.VP.INFOS",
         "no leaf of TDCALL is called TDG.VP.INFOS; did you mean TDG.VP.INFO?"),
        ("hypercall MapGBA", "no hypercall is called MapGBA; did you mean MapGPA?"),
        ("hypercall 0x1ffffffffffffffff", "0x1ffffffffffffffff does not fit in 8 bytes"),
        ("hypercall MapGPA if value == 1", f"value is an access's: {OF_CALLS}"),
        ("tdcall if region is nvme", f"region is an access's: {OF_CALLS}"),
        ("tdcall VP.INFO now", "now cannot follow VP.INFO; if, once, times, after can"),
        ("symbol", "symbol needs a function: symbol nvme_*"),
        ("read symbol nvme_*",
         "symbol begins a break of its own: here an access has to be told"),
        ("unhandled foo", "foo cannot follow unhandled; if, once, times, after can"),
        ("nvme times 0", "0 is no number for times: it is below 1"),
        ("nvme after", "nothing is no number for after: 16 and 0x10 are"),
        ("nvme once times 2", "times comes too late: the break has such a clause already"),
        ("value == 3", "a condition follows if: if value == 3"),
        ("nvme if value = 3", "unknown operator = at column 15; == compares"),
        ("nvme if value == 3 tims 2",
         "expected an operator at column 20, not tims; did you mean times?"),
        ("nvme if region == hpt", "no region is called hpt; did you mean hpet?"),
    ],
)  # fmt: skip
def test_what_is_said_of_an_error(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_break(text, KNOWN)
    assert str(caught.value) == message


UNKNOWN = [
    ("symbol nvme_rest_work",
     "no function is called nvme_rest_work; did you mean nvme_reset_work?"),
    ("symbol nvmes_*", "no function is called anything like nvmes_*"),
    ("nvm?x", "no region is called anything like nvm?x"),
    ("hdet", "no region is called hdet; did you mean hpet?"),
    ("hdet.CC", "no region is called hdet.CC; there are: hpet, nvme, nvme.msix-table"),
    ("nvme.CD", "nvme has no register CD; there are: CAP, CC, SQ0TDBL"),
    ("nvme.Z*", "nvme has no register like Z*"),
    ("nvme+0x2000", "nvme ends at offset 0x1fff"),
    ("read nvm*+0x2000-0x2fff", "nvme ends at offset 0x1fff"),
    ("0xfebf2000", "no device answers at physical 0xfebf2000: `info devices` lists them"),
    ("if register == CCC", "no register is called CCC; did you mean CC?"),
    ("if register ~ Z*", "no register is called anything like Z*"),
    ("if function != nvme_rest_work",
     "no function is called nvme_rest_work; did you mean nvme_reset_work?"),
    ("if symbol == nvme_pci_enabel+0x5e",
     "no function is called nvme_pci_enabel; did you mean nvme_pci_enable?"),
    ("if function ~ nvme_rest_work",
     "no function is called nvme_rest_work; did you mean nvme_reset_work?"),
    ("if module == nvem", "no module is called nvem; did you mean nvme?"),
]  # fmt: skip
"""Breaks with a name that nothing has, and what is said of them."""


@pytest.mark.parametrize(("text", "message"), UNKNOWN)
def test_a_name_that_nothing_has_is_told_and_can_be_waited_for(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_break(text, KNOWN)
    assert (str(caught.value), caught.value.may_come) == (message, True)
    for said in (f"{text} pending", f"{text} pending once", f"{text} once pending"):
        item = parse_break(said, KNOWN)
        assert (item.text, item.pending) == (text, True)
        assert "pending" in item.note and "pending" not in replace(item, hits=1).note
        assert not matches(item, live(offset=0x14)) or "!=" in text
    if not text.startswith("symbol"):
        assert parse_pattern(f"{text} pending", KNOWN) == replace(item.pattern)


@pytest.mark.parametrize(
    "text",
    [
        "symbol nvme_reset_work", "symbol nvme_*", "symbol nvme_pci_enable+0x5e", "nvm*", "nvme+8",
        "nvme+0x1fff-0x2fff", "nvme sq3*", "if register == SQ30TDBL", "if register ~ SQ3*",
        'if register == ""', "if module != nvme", "if symbol == nvme_pci_enable+0x5e",
        "0xfebf1fff-0xffffffff",
    ],
)  # fmt: skip
def test_a_name_that_something_has_is_not_waited_for(text: str) -> None:
    for said in (text, f"{text} pending"):
        assert not parse_break(said, KNOWN).pending


def test_pending_lets_no_other_mistake_pass() -> None:
    for text in ("nvme if value = 3", "if direction == raed", "verdict linux-tdz", "symbol"):
        with pytest.raises(UsageError) as caught:
            parse_break(f"{text} pending", KNOWN)
        assert not caught.value.may_come


def test_what_is_waited_for_stops_once_it_is_there() -> None:
    for text, facts in (
        ("symbol nvme_probe pending", live(callers=("nvme_probe+0x5",))),
        ("usb.CC pending", {"region": "usb", COVERED: ("CC",)}),
        ("usb.msix pending", {"region": "usb.msix", COVERED: ()}),
        ("nvme.CD pending", {"region": "nvme", COVERED: ("CD",)}),
    ):
        known = {"direction": "read", OWNERS: ()}
        sought = facts if isinstance(facts, PendingFacts) else {**known, **facts}
        assert parse_break(text, KNOWN).fits(sought)  # type: ignore[arg-type]
    assert parse_until("nvme_probe pending", 0, KNOWN).symbol == "nvme_probe"
    with pytest.raises(UsageError, match="did you mean nvme_reset_work"):
        parse_until("nvme_rest_work", 0, KNOWN)
    with pytest.raises(UsageError, match="no register is called CCC"):
        parse_condition("register == CCC", KNOWN)
    assert parse_condition("register == CCC pending", KNOWN).text == "register == CCC"


def run(item: Break, accesses: int) -> tuple[list[int], Breaks]:
    """Make accesses; return at which of them, from 1, the guest stops."""
    breaks, stops = Breaks().added(item), []
    for number in range(1, accesses + 1):
        checked = breaks.check(live())
        breaks = checked.breaks
        if checked.stopped:
            stops.append(number)
    return stops, breaks


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("nvme", [1, 2, 3, 4, 5, 6]),
        ("nvme once", [1]),
        ("nvme times 2", [1, 2]),
        ("nvme after 4", [5, 6]),
        ("nvme if value == 3 after 2 times 2", [3, 4]),
        ("nvme once if value == 3", [1]),
        ("nvme if count % 3 == 0", [3, 6]),
        ("hpet", []),
    ],
)
def test_counts(text: str, stops: list[int]) -> None:
    assert run(parse_break(text, KNOWN), 6)[0] == stops


def test_what_is_used_up_is_gone_and_its_number_with_it() -> None:
    _, breaks = run(parse_break("nvme", temporary=True), 1)
    assert breaks.items == ()
    assert breaks.added(parse_break("nvme")).items[0].number == 2


def test_hits_are_counted_and_ignored() -> None:
    breaks = Breaks().added(parse_break("write nvme if value == 3", KNOWN)).ignoring(1, 1)
    assert [row.note for row in breaks.describe()] == ["ignores the next 1"]
    first = breaks.check(live())
    second = first.breaks.check(live(value=4)).breaks.check(live())
    assert not first.stopped and [item.hits for item in second.stops] == [2]
    row = second.breaks.describe()[0]
    assert (row.number, row.kind, row.enabled, row.hits) == (1, "access", True, 2)
    assert row.text == "write nvme if value == 3" and second.breaks.items[0].fitted == 3


def test_changes() -> None:
    breaks = Breaks()
    for text in ("nvme", "hpet", "unhandled"):
        breaks = breaks.added(parse_break(text, KNOWN))
    assert breaks.numbers("1 2-9") == (1, 2, 3) == breaks.numbers("")
    assert not breaks.enabled([1], False).check(live()).stopped
    changed = breaks.conditioned(1, parse_condition("value == 9", KNOWN))
    assert changed.items[0].text == "nvme if value == 9" and not changed.check(live()).stopped
    assert changed.conditioned(1, None).check(live()).stopped
    assert [item.number for item in breaks.deleted([2]).items] == [1, 3]
    with pytest.raises(UsageError, match=r"^there is no break 7; there are: 1, 2, 3$"):
        breaks.deleted([7])
    with pytest.raises(UsageError, match=r"^x is no number of a break: 2 is, and 2-4 are$"):
        breaks.numbers("x")
    with pytest.raises(UsageError, match=r"^break 1 cannot ignore -1 hits$"):
        breaks.ignoring(1, -1)


def test_a_read_is_judged_by_its_value_once_it_is_answered() -> None:
    breaks = Breaks().added(parse_break("nvme if value == 3")).added(parse_break("nvme"))
    assert breaks.needs_value and not breaks.needs_stack
    before = breaks.check(live("read", value=None))
    assert [item.number for item in before.stops] == [2]
    after = before.breaks.check(live("read", value=3), answered=True)
    assert [item.number for item in after.stops] == [1]
    assert [item.fitted for item in after.breaks.items] == [1, 1]
    assert [item.number for item in breaks.check(live("write")).stops] == [1, 2]


def test_a_condition_without_an_answer_stops_and_names_its_break() -> None:
    breaks = Breaks().added(parse_break("if value // cpl == 3")).added(parse_break("nvme"))
    checked = breaks.check(live())
    assert [str(error) for error in checked.errors] == ["break 1: division by zero at column 10"]
    assert checked.stopped and [item.number for item in checked.stops] == [2]


def test_filters() -> None:
    assert parse_pattern("").wants(live())
    assert parse_pattern("write nvme if value == 3", KNOWN).wants(live())
    assert not parse_pattern("read", KNOWN).wants(live())
    with pytest.raises(UsageError, match=r"^once belongs to breaks: "):
        parse_pattern("nvme once", KNOWN)
    with pytest.raises(UsageError, match=r"^count is of breaks: "):
        parse_pattern("if count == 2")


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("1.2s", Until(time_ns=1_200_000_000)),
        ("1.2", Until(time_ns=1_200_000_000)),
        ("350ms", Until(time_ns=350_000_000)),
        ("+50ms", Until(time_ns=250_000_000)),
        ("nvme_*", Until(symbol="nvme_*")),
    ],
)
def test_until(text: str, until: Until) -> None:
    assert parse_until(text, 200_000_000) == until


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1", "0.1 is past: it is 0.200000 s in the guest"),
        ("1e3", "1e3 is no time: 1.2s, 350ms and +50ms are"),
        ("99999999999s", "99999999999s is no time: 1.2s, 350ms and +50ms are"),
        ("", "until needs a time or a function: 1.2s, +50ms, nvme_reset_work"),
    ],
)
def test_no_until(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_until(text, 200_000_000)
    assert str(caught.value) == message


def test_until_is_reached() -> None:
    assert Until(time_ns=2_000_000_000).reached(live())
    assert not Until(time_ns=2_000_000_001).reached(live())
    assert Until(symbol="nvme_reset_work").reached(live(callers=("nvme_reset_work",)))


WORDS = (
    "tdcall hypercall MapGPA read write nvme nvme+ + - if once times after 3 symbol verdict value"
    " == . nvme. 0x CC"
)


@given(st.text(max_size=30) | st.lists(st.sampled_from(WORDS.split()), max_size=7).map(" ".join))
def test_any_words_make_a_break_or_an_error_in_one_line(text: str) -> None:
    for known in (KNOWN, Known()):
        try:
            item = replace(parse_break(text, known), number=1)
            matches(item, live())
        except UsageError as error:
            assert str(error) and "\n" not in str(error)
        try:
            parse_until(text, 0)
        except UsageError as error:
            assert "\n" not in str(error)


def test_an_offset_of_a_region_is_not_one_of_its_device_s_others() -> None:
    for text in ("nvme+0x14", "nvme.CC"):
        (spot,) = parse_place(text, KNOWN).spots
        for region, fits in (("nvme", True), ("nvme.msix-table", False)):
            facts = {"region": region, OWNERS: ("nvme",), "offset": 0x14, "extent": 4}
            assert spot.holds(facts) is fits
    # The name of a device alone is that of all its regions.
    device = Known(("nvme.a", "nvme"), devices=("nvme",))
    facts = {"region": "nvme.a", OWNERS: ("nvme",), "offset": 0x14, "extent": 4}
    assert parse_place("nvme+0x14", device).holds(facts)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("usb", True),
        ("usb+0x14", True),
        ("usb+0x18", False),
        ("usb.CC", True),
        ("us*", True),
        ("hp*", False),
    ],
)
def test_a_device_holds_the_regions_of_its_parts(text: str, held: bool) -> None:
    known = Known(
        ("nvme", "usb.msix-table", "usb", "hpet"),
        span_of,
        lambda region: ("CC", "CAP"),
        ("usb",),
        {"nvme": ("nvme", "usb"), "usb.msix-table": ("usb",)},
    )
    facts = {"region": "nvme", OWNERS: ("nvme", "usb"), "offset": 0x14, "extent": 4}
    assert parse_place(text, known).holds(facts) is held


# ---- where a break may stop a guest

TABLE = Region("nvme.msix-table", 0xFEBF2000, 0xFEBF2FFF, 0xFEBF2000, "nvme", "table")
HERE = RegionMap([NVME, TABLE], [(0xFEBF0000, 0xFEBF2FFF), (0xFED00000, 0xFED00FFF)], [])


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("write nvme+0x14", [range(0xFEBF0014, 0xFEBF0015)]),
        ("nvme.CC", [range(0xFEBF0014, 0xFEBF0018)]),
        ("nvme.msix-table", [range(0xFEBF2000, 0xFEBF3000)]),
        ("nvme if value == 3", [range(0xFEBF0000, 0xFEBF2000), range(0xFEBF2000, 0xFEBF3000)]),
        ("0xfebf0010-0xfebf001f", [range(0xFEBF0010, 0xFEBF0020)]),
        ("hpet", []),  # none is there now
        ("unhandled", []),
        ("read if region == nvme.msix-table and value == 3", [range(0xFEBF2000, 0xFEBF3000)]),
        ("if device == nvme", None),  # that is all there is
        ("if region == nvme.msix-table or time > 1s", None),
        ("if region == nvme.msix-table and count == 3", None),  # which counts all
        ("if region == unassigned pending", [range(0xFED00000, 0xFED01000)]),
        ("if region ~ *", None),
        (
            "*+0x14-0x17",
            [
                range(0xFED00000, 0xFED01000),
                range(0xFEBF0014, 0xFEBF0018),
                range(0xFEBF2014, 0xFEBF2018),
            ],
        ),
        ("symbol nvme_reset_work", None),
        ("symbol nvme_reset_work if region == nvme.msix-table", [range(0xFEBF2000, 0xFEBF3000)]),
    ],
)
def test_a_break_tells_where_it_may_stop_a_guest(text: str, places: list[range] | None) -> None:
    breaks = Breaks().added(parse_break(text, KNOWN))
    leeway = NO_LEEWAY if places is None else Leeway(tuple(places))
    assert breaks.leeway(HERE, 0) == leeway
    assert breaks.enabled([1], False).leeway(HERE, 0) == Leeway()


def test_a_break_of_counts_alone_is_one_on_every_access() -> None:
    assert parse_break("after 3").text == parse_break("access after 3").text == "access"


def test_one_break_that_may_stop_it_anywhere_is_enough() -> None:
    breaks = Breaks().added(parse_break("nvme.CC", KNOWN)).added(parse_break("if vcpu == 1"))
    assert breaks.leeway(HERE, 0) == NO_LEEWAY
    assert breaks.deleted([2]).leeway(HERE, 0) == Leeway((range(0xFEBF0014, 0xFEBF0018),))
    assert Breaks().leeway(HERE, 0) == Leeway()


KERNEL = 0xFFFF_FFFF_8100_0100
READS = "8b07"  # mov eax, [rdi]
WRITES = "8907"
CHANGES = "0907"  # or [rdi], eax
WIDE = "488b07"
MOVES = "f3a4"  # rep movsb


def came_from(
    text: str, code: str, symbol: str | None = "foo+0x5 [mod]", rip: int = KERNEL
) -> bool:
    leeway = Breaks().added(parse_break(text)).leeway(HERE, 0)
    assert leeway.places == () and leeway.interests, leeway
    insn = decode(bytes.fromhex(code) + bytes(15), rip, Mode.LONG)
    origin = Origin(insn, symbol)
    return any(interest.may_come_from(origin) for interest in leeway.interests)


@pytest.mark.parametrize(
    ("text", "fit", "others"),
    [
        ("write", [WRITES, CHANGES, MOVES], [READS, WIDE]),
        ("read if value == 3", [READS, CHANGES, WIDE, MOVES], [WRITES]),
        ("if width == 8 and value == 3", [WIDE, MOVES], [READS, WRITES, CHANGES]),
        ("if mnemonic == or or via == stepped", [CHANGES], [READS, WRITES]),
        ("if space == port", [], [READS, WRITES, CHANGES, MOVES]),
        ("if port == 0x64 or msr == 0x10 or leaf == 1 and subleaf == 0", [], [READS, MOVES]),
        ("if direction == write and offset == 4", [WRITES, CHANGES, MOVES], [READS]),
        # Somebody asked about some only knows neither the number of all nor the value before.
        ("write if count == 3", [WRITES, CHANGES], [READS]),
        ("write if changes and width == 8", [WRITES, CHANGES], [READS]),
        ("if 8 // (width - 4) == 3 and cpl == 0", [READS], []),  # no answer, which stops the guest
        ("verdict", [CHANGES, MOVES], [READS, WRITES, WIDE]),
        ("verdict if direction == write", [CHANGES, MOVES], [READS, WRITES]),
    ],
)
def test_a_break_tells_which_instructions_it_may_stop_a_guest_at(
    text: str, fit: list[str], others: list[str]
) -> None:
    assert all(came_from(text, code) for code in fit)
    assert not any(came_from(text, code) for code in others)


@pytest.mark.parametrize("text", [
    "if function == foo", "if symbol is foo", "if symbol == foo+0x5", "nvme if module == mod",
    "if function ~ fo* and value == 3", "if $rip == 0xffffffff81000100",
    "nvme+0x14 if symbol is foo",
    "if $rip in 0xffffffff81000000.. and region == nvme",
])  # fmt: skip
def test_a_break_tells_which_code_it_may_stop_a_guest_in(text: str) -> None:
    assert came_from(text, READS)
    assert not came_from(text, READS, "other+0x5 [one]", KERNEL - 0x200_0000)
    # Its name may be known by the time that a stop asks for it.
    assert came_from(text, READS, None)


def test_what_does_not_say_which_code_is_asked_about_at_its_place() -> None:
    place = Leeway((range(0xFEBF0014, 0xFEBF0018),))
    for text in ("nvme.CC if function != worker_thread", "read nvme.CC",
                 "nvme.CC if value == 3 or function == worker_thread",
                 "nvme.CC if changes and function == worker_thread"):  # fmt: skip
        assert Breaks().added(parse_break(text, KNOWN)).leeway(HERE, 0) == place


def test_a_handler_may_not_survive_code_that_has_no_name_or_is_not_the_kernels() -> None:
    assert not came_from("verdict", READS)
    assert came_from("verdict", READS, None) and came_from("verdict", READS, rip=0x1000)


@pytest.mark.parametrize(
    ("text", "now", "until"),
    [
        ("if time >= 1s", 5, 10**9),
        ("write if 1s < time", 5, 10**9 + 1),
        ("if time in 1s..2s", 5, 10**9),
        ("if 1s <= time <= 2s and value == 3", 5, 10**9),
        ("if time == 1s or time > 3s", 5, 10**9),
        ("if time == 1s or time > 3s", 10**9 + 1, 3 * 10**9 + 1),
        ("if not time < 1s", 5, 10**9),
    ],
)
def test_a_break_tells_the_time_before_which_it_does_not_stop_a_guest(
    text: str, now: int, until: int
) -> None:
    assert Breaks().added(parse_break(text)).leeway(HERE, now) == Leeway(until_ns=until)


def test_a_time_that_is_over_does_not_come_again() -> None:
    assert Breaks().added(parse_break("if time < 1s")).leeway(HERE, 10**9) == Leeway()


@pytest.mark.parametrize("text", [
    "if time < 1s", "if time % 7 == 3", "if time > value", "if 1s < time < value",
    "if time > 1s and changes", "if time > 1s or value == 3", "if (time) + 1 > 1s",
])  # fmt: skip
def test_a_time_that_may_be_now(text: str) -> None:
    assert Breaks().added(parse_break(text)).leeway(HERE, 5) == NO_LEEWAY


@pytest.mark.parametrize(
    ("text", "fitted", "records"),
    [
        ("if count == 100", 0, 12),
        ("write if count >= 100 and value == 3", 3, 12),
        ("if count % 1000 == 0", 1500, 62),
        ("if count == 100", 100, 1011),  # looked for so far, and never
        ("if count == 10", 0, 1),
        ("if count == 9", 0, 1),
    ],
)
def test_a_break_tells_how_many_accesses_come_before_it_stops_a_guest(
    text: str, fitted: int, records: int
) -> None:
    item = replace(parse_break(text), fitted=fitted)
    assert Breaks().added(item).leeway(HERE, 0) == Leeway(records=records)


def test_near_its_count_a_break_is_asked_about_each() -> None:
    breaks = Breaks().added(parse_break("if count == 8"))
    assert breaks.leeway(HERE, 0) == NO_LEEWAY
    assert breaks.enabled([1], False).passed("read").items[0].fitted == 0


def test_to_a_break_on_calls_a_guest_makes_nothing_by_itself() -> None:
    for text in ("tdcall", "hypercall MapGPA if $r13 > 1"):
        breaks = Breaks().added(parse_break(text))
        assert breaks.leeway(HERE, 0) == NO_LEEWAY
        assert breaks.enabled([1], False).leeway(HERE, 0) == Leeway()


def test_accesses_that_nobody_was_asked_about_are_counted() -> None:
    breaks = Breaks()
    for text in ("write if count == 100", "if count == 100", "nvme if count == 3", "write"):
        breaks = breaks.added(parse_break(text, KNOWN))
    for direction in ("read", "write", "read"):
        breaks = breaks.passed(direction)
    assert [item.fitted for item in breaks.items] == [1, 3, 0, 0]
    assert Breaks().added(parse_break("write")).passed("write").items[0].fitted == 0


@pytest.mark.parametrize(
    ("profile", "code", "stops"),
    [("linux-tdx-5.19", "8903", False), ("linux-tdx", "8903", False), ("linux-sev", "a4", False)],
)
def test_the_verdict_is_that_of_the_guests_own_handler(
    profile: str, code: str, stops: bool
) -> None:
    known = replace(KNOWN, profile=profile)
    item = parse_break("verdict", known)
    assert (item.target, item.text) == (profile, f"verdict {profile}")
    assert parse_break("verdict linux-tdx-v5", known).target == "linux-tdx-v5"
    assert item.fits(live(code=code)) is stops


def test_a_condition_on_a_call_can_be_changed_to_one_that_calls_have() -> None:
    breaks = Breaks().added(parse_break("hypercall MapGPA"))
    assert breaks.conditioned(1, parse_condition("$r13 > 1")).find(1).text.endswith("if $r13 > 1")
    with pytest.raises(UsageError, match="offset is an access's"):
        breaks.conditioned(1, parse_condition("offset == 1"))
