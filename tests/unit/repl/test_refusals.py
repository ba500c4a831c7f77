"""The commands of the prompt, on a simulated guest: what they refuse, and why."""

from __future__ import annotations

import pytest
from guest_sample import Talk
from talk_sample import refused, run, told


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("stepp", "there is no command stepp; did you mean step?"),
        ("di", "di is ambiguous: disable, disas, display"),
        ("step x", "x is no count: 16 and 0x10 are"),
        ("step 0", "0 accesses cannot be stepped over; usage: step [N]"),
        ("continue 3", "it takes no argument; usage: continue"),
        ("next nvm", "there is no region nvm; did you mean nvme?"),
        ("next 5", "next takes a region: `step 5` goes by a count"),
        ("break nvm", "no region is called nvm; did you mean nvme?"),
        ("break nvme.CSTSS", "nvme has no register CSTSS; did you mean CSTS?"),
        ("delete 4", "there is no break 4; there are: none at all"),
        ("until 0.5", "0.5 is past"),
        ("until foo", "no function is called foo"),
        (
            "break symbol nvme_rest_work",
            "nvme_reset_work? (`pending` waits for one that is to come)",
        ),
        ("break if register == CCC", "no register is called CCC; did you mean CC?"),
        ("break nvme+0x4000", "nvme ends at offset 0x3fff"),
        ("break if module ~ x*", "no module is called anything like x*"),
        ("break if device == nvem", "no device is called nvem; did you mean nvme?"),
        ("tbreak 0x1000", "no device answers at physical 0x1000"),
        ("filter if function == foo", "no function is called foo"),
        ("hide nvmx*", "no region is called anything like nvmx*"),
        ("show last 3 nvme.CCC", "nvme has no register CCC; did you mean CC?"),
        ("set value 0x100000000", "0x100000000 does not fit in 4 bytes"),
        (
            "set value",
            "a name and a value are needed; usage: set value VALUE...  or  set $REGISTER",
        ),
        ("set $rxx 1", "$rxx cannot be set"),
        ("set rax 5", "rax cannot be set; did you mean $rax?"),
        ("set valu 5", "valu cannot be set; did you mean value?"),
        ("fault ud", "gp or pf is needed"),
        ("peek nvme+0x9000", "nvme ends at offset"),
        ("peek/3 nvme", "/3 is no width: /1 /2 /4 /8, or /b /h /w /g"),
        ("poke nvme.CC", "a place and a value are needed"),
        ("info register nvme.CCC", "nvme has no register CCC; did you mean CC?"),
        ("info register nvmee", "no register is called nvmee; did you mean nvme?"),
        ("info register nvme+0xfff", "nvme has no register at offset 0xfff"),
        ("info regi nvme", "regi is ambiguous: region, regions, register, registers"),
        ("info reg nvme.nothing", "nothing"),
        ("x/8xq $rsp", "/8xq"),
        ("x", "an address is needed"),
        ("x nosuch", "the kernel has no symbol nosuch"),
        ("x $rzx", "there is no register $rzx"),
        ("disas 0x0", "is not in RAM: not mapped"),
        ("info bogus", "there is no info bogus"),
        ("undisplay 3", "there is no display 3"),
        ("display step", "step does something"),
        ("show first", "there is no show first"),
        ("filter off 3", "there is no number 3"),
        ("unpause", "the output is not paused"),
        ("interrupt", "the guest is not running: it is stopped"),
        ("source nowhere.txt", "cannot read nowhere.txt: No such file or directory"),
        ("save breaks /no/such", "No such file or directory; make its folder first"),
        ("save breaks a\0b", "its name has a NUL; name another file"),
        ("save breaks nof/", "Is a directory; name a file in it"),
        ("save breaks ~no-such-person/x", "there is no home folder ~no-such-person"),
        ("source ~no-such-person/x", "there is no home folder ~no-such-person"),
        ("py", "a script has no Python console"),
        ("mark 'x", "the quote ' at column 6 is not closed"),
        ("mark", "there is nothing to note"),
    ],
)
def test_what_is_refused_changes_nothing(line: str, why: str) -> None:
    assert why in refused(line, before=("step",))


def test_a_script_says_that_it_waits_for_a_name() -> None:
    talk = told(
        "break symbol foo pending", "filter hdet pending", "until bar* pending", "info breaks"
    )
    assert talk.said[0] == "break 1: symbol foo (pending)"
    assert talk.said[-1].startswith("the guest has ended") or "symbol foo" in talk.said[-1]


@pytest.mark.parametrize("made", [True, False])
def test_a_person_is_asked_whether_to_wait_for_a_name(made: bool) -> None:
    async def test(talk: Talk) -> None:
        asked: list[str] = []

        async def confirm(question: str) -> bool:
            asked.append(question)
            return made

        talk.context.waits, talk.context.confirm = False, confirm
        talk.context.complain = talk.complaints.append
        assert (await talk.type("break symbol nvme_rest_work") == 0) is made
        assert talk.complaints[0] == (
            "no function is called nvme_rest_work; did you mean nvme_reset_work?"
        )
        assert asked == ["Wait for one that is to come? (y or [n]) "]
        assert [item.pending for item in talk.context.run.breaks.items] == [True] * made
        # What may not come is not asked for.
        assert await talk.type("break nvme if value = 3") == 2 and len(asked) == 1

    run(test)


def test_without_an_access_that_waits() -> None:
    assert refused("plan") == "no access waits here: `step` goes to the next one"
    assert refused("next") == "no access waits here, so name the region: next nvme"


def test_a_condition_points_at_the_place() -> None:
    why = refused("break nvme if value = 3")
    assert why.splitlines()[-1].endswith("^")
