"""The commands of the prompt, on a simulated guest: what they do and say."""

from __future__ import annotations

import json

import pytest
import stop_sample
import trace_sample
from guest_sample import CRASH, Talk
from msgspec.structs import replace
from talk_sample import refused, run, told

from tracer.repl.feed import Feed, Item, Waited
from tracer.repl.result import Screen
from tracer.trace.record import MapRecord, UserRecord
from tracer.trace.waiting import WaitRecord, WayOut

# ---- going on


def test_step_stands_before_the_next_access() -> None:
    talk = told("step")
    assert talk.made == []
    assert "nvme+0x1c" in talk.text and "CSTS" in talk.text and "R4" in talk.text


def test_steps_are_counted() -> None:
    assert told("step 3").made == [("read", 1), ("write", 0)]


def test_an_empty_line_steps_again() -> None:
    talk = told("step", "", "")
    assert len(talk.made) == 2


def test_an_empty_line_after_another_command_does_nothing() -> None:
    assert told("step", "info breaks", "").made == []


def test_next_and_until_and_continue() -> None:
    assert len(told("next nvme").made) == 0
    assert len(told("until 1.003").made) == 3
    assert len(told("step", "until +2ms").made) == 2
    assert told("until nvme_reset_work").made == []
    talk = told("continue")
    assert len(talk.made) == 6
    assert talk.said[-1] == "the guest has powered off"


@pytest.mark.parametrize("line", ["step", "step 5", "until 1.003", "until nvme_reset_work"])
def test_what_would_never_stop_the_guest_is_not_begun(line: str) -> None:
    why = "nothing is traced, so nothing would stop the guest: `trace on` first"
    assert refused(line, before=("trace off",)) == why


def test_a_region_that_is_left_alone_is_not_gone_on_to() -> None:
    why = "nvme is not traced, so nothing would stop the guest: `trace nvme` first"
    assert refused("next nvme", before=("bypass nvme",)) == why


def test_a_crash_is_the_failure_of_the_command_that_let_the_guest_go_on() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("continue") == 1
        assert talk.complaints == ["the guest panicked: no init"]
        assert await talk.type("show last 2", "info regions") == 0
        assert await talk.type("step") == 2
        assert talk.complaints[-1] == "the guest has ended (the guest panicked: no init)"

    run(test, error=CRASH)


def test_detached_the_guest_is_out_of_reach() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("detach") == 0
        await talk.control.wait()
        assert talk.made == [] and talk.control.outcome == "poweroff"

    run(test)


# ---- stopping


@pytest.mark.parametrize("line", ["break nvme.CC", "tbreak write nvme", "break nvme.* once"])
def test_a_break_on_what_is_not_traced_says_so(line: str) -> None:
    said = told("bypass nvme", line).said[-1]
    assert said == "nvme is not traced, so this stops nothing before `trace nvme`"
    assert "not traced" not in told(line).text


def test_a_break_stops_before_the_access() -> None:
    talk = told("break write nvme.CC", "continue")
    assert talk.made == [("read", 1)]
    assert "break 1: write nvme.CC" in talk.said


def test_a_break_on_the_value_of_a_read_stops_once_the_device_has_answered() -> None:
    talk = told("break read nvme if value == 1", "continue", "set value 7", "step")
    assert talk.made[0] == ("read", 7)


def test_hits_are_counted_and_a_temporary_break_is_gone_after_its_stop() -> None:
    talk = told("break write nvme", "tbreak nvme.CSTS", *3 * ["continue"], "info breaks")
    assert talk.said[-1] == "1   2 hits  write nvme"


def test_a_symbol_is_what_makes_the_access_or_has_called_it() -> None:
    assert told("break symbol nvme_reset_work", "continue").made == []
    assert told("break symbol nvme_pci_*", "continue").made == []
    # It was interrupted: it has called nobody.
    assert len(told("break symbol linux_banner", "continue").made) == 6


def test_a_condition_without_an_answer_stops_and_says_so() -> None:
    assert "break 1: " in told("break nvme if value // 0 == 1", "continue").text


def test_breaks_are_kept_by_number() -> None:
    talk = told("break nvme.CC", "tbreak nvme.CSTS", "disable 1", "ignore 2 1", "info breaks")
    assert talk.said[-2:] == [
        "1   disabled, 0 hits  nvme.CC",
        "2   0 hits  nvme.CSTS  (ignores the next 1, once)",
    ]
    talk = told("break nvme.CC", "condition 1 value == 3", "delete 1", "info breaks")
    assert talk.said[1:] == [
        "break 1: nvme.CC if value == 3",
        "deleted break 1",
        "there are no breaks; `help break` tells how to make one",
    ]


@pytest.mark.parametrize(
    ("word", "topic"), [("breakpoints", "breaks"), ("reg", "registers"), ("r", "registers")]
)
def test_topics_have_their_names_in_gdb(word: str, topic: str) -> None:
    asked, meant = (told("step", "break nvme", f"info {each}") for each in (word, topic))
    assert asked.said == meant.said


# ---- looking


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("plan", "the 4 bytes read, zero-extended"),
        ("regs", "rflags"),
        ("regs rsi", "rsi"),
        ("bt", "no more of it here"),
        ("x/2xg $rsp", "0x"),
        ("page", "poison"),
        ("sym nvme_reset_work", "0xffffffff81002000  nvme_reset_work+0x0"),
        ("sym nvme_*", "nvme_pci_reg_read32"),
        ("stats", "call site"),
        ("info region nvme", "CSTS"),
        ("info register nvme.CC", "NVM Express Base Specification 1.4, 3.1.5"),
        ("info register cc", "Controller Configuration"),
        ("info register nvme+0x14", "register   nvme.CC"),
        ("info register nvme", "Admin Queue Attributes"),
        ("info register rax", "Accumulator"),
        ("info register $rflags", "Intel SDM, vol. 1, 3.4.3"),
        ("info register $cr4", "SMAP"),
        ("info register", "rflags"),
        ("info regist rip", "The instruction that is next"),
        ("info devices", "nvme"),
        ("info mappings", "no traced region"),
        ("info display", "nothing is displayed"),
        ("info filters", "every access is shown"),
        ("show last", "no access yet"),
        ("trace", "traced: nvme"),
        ("help", "go on:"),
        ("help break", "examples:"),
        ("history", ""),
    ],
)
def test_looking_says(line: str, words: str) -> None:
    assert words in told("step", line).text


def test_help_fills_the_lines_of_a_narrow_terminal() -> None:
    lines = told("help break").said
    text = lines[lines.index("") + 1 :]
    assert max(map(len, text)) <= 100

    async def test(talk: Talk) -> None:
        talk.interpreter.screen = lambda: Screen(50)
        assert await talk.type("help break") == 0
        (start,) = (n for n, line in enumerate(talk.said) if line.startswith("PLACE is"))
        paragraph = talk.said[start : talk.said.index("", start)]
        assert all(30 < len(line) <= 50 for line in paragraph[:-1])
        assert not any(line.startswith(" ") for line in paragraph)

    run(test)


def test_nothing_of_a_device_is_read_by_looking_at_memory() -> None:
    talk = told("step", "x/4xw $rsi")
    assert "a device, which is not read; `peek nvme+" in talk.text
    assert talk.made == []


# ---- changing


def test_another_value_for_the_guest_and_for_the_device() -> None:
    talk = told("step", "set value 0x10300", "step", "set value = 5", "step")
    assert talk.made == [("read", 0x10300), ("write", 5)]
    notes = [record.text for record in talk.records if isinstance(record, UserRecord)]
    assert notes == ["set value 0x10300", "set value 0x5"]


def test_skip_leaves_the_device_alone() -> None:
    assert told("step", "skip 9").made == [("skip", 9)]


def test_a_fault_in_place_of_the_instruction() -> None:
    assert told("step", "fault gp", "step").made == [("fault", 13)]
    assert told("step", "fault pf", "step").made == [("fault", 14)]


def test_a_register_is_set() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("step", "set $rax 0x5") == 0
        halt = talk.control.halt
        assert halt is not None and (halt.reason, halt.cpu.gpr[0]) == ("access", 5)

    run(test)
    assert told("step", "set $rdx 0x77", "step 2").made == [("read", 1), ("write", 0)]
    assert told("step 2", "set $rdx 0x77", "step").made == [("read", 1), ("write", 0x77)]


def test_a_register_is_set_to_a_sum() -> None:
    talk = told("step", "set $rax = $rsi - 0x1c")
    assert talk.said[-1].startswith(f"$rax is {stop_sample.LINEAR:#x} (was ")
    talk = told("step", "set $rax = -1")
    assert talk.said[-1].startswith("$rax is 0xffffffffffffffff (was ")


def test_what_is_displayed_is_shown_at_each_stop_of_a_script() -> None:
    talk = told("display regs rip", "step", "set $rax 1", "step")
    assert [line.split()[0] for line in talk.said].count("rip") == 2


def test_an_empty_line_repeats_what_was_typed_and_not_what_was_displayed() -> None:
    talk = told("display disas", "step", "", "")
    assert talk.made == [("read", 1), ("write", 0)]


def test_peek_and_poke_know_registers() -> None:
    talk = told("step", "peek nvme.VS", "poke nvme.CC 0x460001", "peek nvme.CC", "peek/1 nvme+0x1c")
    assert "nvme+0x8 VS  0x00010400" in talk.said[2]
    assert talk.guest.device[0x14] == 0x460001
    assert "EN" in talk.said[-2]
    assert talk.said[-1].startswith("nvme+0x1c")


def test_a_register_that_is_only_read_is_not_said_to_be_written() -> None:
    talk = told("step", "poke nvme.CSTS 1", "poke nvme.CC 1", json=True)
    sent, written = (json.loads(line)["result"] for line in talk.said[-2:])
    assert sent["read_only"] and "read-only register" in sent["text"]
    assert not written["read_only"] and written["text"].endswith("written")


def test_info_register_is_a_list_for_programs() -> None:
    talk = told(
        "step", "info register nvme.CC", "info register $rax", "info register ASQ", json=True
    )
    cc, rax, asq = (json.loads(line)["result"] for line in talk.said[-3:])
    assert [(found["register"], found["offset"], found["section"]) for found in cc] == [
        ("CC", "0x14", "3.1.5")
    ]
    assert cc[0]["fields"][0] == {"name": "EN", "bits": "0", "description": "Enable", "values": {}}
    (found,) = rax
    assert found["register"] == "rax" and int(found["value"], 16) >= 0 and found["width"] == 8
    assert asq[0]["register"] == "ASQ"
    assert talk.made == []


def test_a_register_is_told_with_what_it_was_used_for() -> None:
    talk = told("step", "step", "step", "info register CC", "info register CSTS")
    assert "value      0x00000000" in talk.said
    assert (
        "written    once, 0x00000000 at 1.001000 s by nvme_reset_work+0x1c on vcpu0, #1"
    ) in talk.said
    assert "read       not yet" in talk.said
    assert "value      0x00000001 RDY" in talk.said
    assert sum(line.startswith("written ") for line in talk.said) == 1  # CSTS is read-only
    assert any(line.split()[:4] == ["0", "RDY", "1", "Ready"] for line in talk.said)


def test_the_uses_of_registers_are_told_to_programs() -> None:
    talk = told("step", "step", "info register CSTS", "info register nvme", json=True)
    (csts,), nvme = (json.loads(line)["result"] for line in talk.said[-2:])
    assert (csts["value"], csts["reads"], csts["writes"]) == ("0x1", 1, 0)
    assert csts["last_written"] is None
    last = csts["last_read"]
    assert (last["seq"], last["time_ns"], last["site"]) == (0, 10**9, "nvme_reset_work+0x1c")
    assert {each["name"]: each["value"] for each in csts["fields"]}["RDY"] == "0x1"
    assert {each["register"]: each["reads"] for each in nvme if each["reads"]} == {"CSTS": 1}


def test_addresses_of_mappings_are_text_for_programs() -> None:
    async def test(talk: Talk) -> None:
        talk.context.take(
            MapRecord(
                time_ns=0,
                linear=stop_sample.LINEAR,
                physical=0xFEBF_0000,
                size=0x4000,
                regions=["nvme"],
                by="ioremap_page_range",
            )
        )
        assert await talk.type("info mappings") == 0
        assert json.loads(talk.said[-1])["result"] == [
            {
                "linear": hex(stop_sample.LINEAR),
                "physical": "0xfebf0000",
                "size": 0x4000,
                "regions": ["nvme"],
                "by": "ioremap_page_range",
            }
        ]

    run(test, json=True)


def test_trace_and_bypass_choose() -> None:
    async def test(talk: Talk) -> None:
        for line, bypassed in (("bypass nvme", True), ("trace off", True), ("trace on", False)):
            assert await talk.type(line) == 0
            choice = talk.session.choice
            assert (choice.wanted, choice.bypassed) == ((), ("nvme",) if bypassed else ())
            leaf = talk.guest.space.leaf(stop_sample.LINEAR)
            assert leaf is not None and leaf.poisoned is not bypassed

    run(test)


@pytest.mark.parametrize("again", [False, True])
def test_what_was_waited_for_is_told_once_it_is_over_in_the_same_run(again: bool) -> None:
    poll = trace_sample.device("nvme", 0x1C, 4, "read", 0)
    reads = [
        replace(trace_sample.intercept(n, poll), time_ns=n * 1_000_000) for n in range(9)
    ]  # fmt: skip
    told = WaitRecord(
        time_ns=0, seq=8, vcpu=0, rip=reads[0].rip, region="nvme", offset=0x1C, width=4,
        awaited=[WayOut(rip=1, mask=1, value=1)],
    )  # fmt: skip
    over = trace_sample.intercept(9, trace_sample.device("nvme", 0x14, 4, "write", 1))
    shown: list[Item] = []

    async def test(talk: Talk) -> None:
        context = talk.context
        context.feed, context.on_shown = Feed(limit=None), shown.extend
        for record in (*reads, told):
            context.take(record)
        if again:
            context.renewed(context.run, context.names, None)
        context.take(over)

    run(test)
    assert sum(isinstance(item, Waited) for item in shown) == (0 if again else 1)
