"""A line while it is edited: its pieces, its menu, what is set about it."""

from __future__ import annotations

import asyncio

import pytest
from guest_sample import Talk
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from tracer.errors import UsageError
from tracer.repl.commands import command_table
from tracer.repl.commands.prompt import described
from tracer.repl.completion import Candidates
from tracer.repl.editor import Colours, Menu
from tracer.repl.highlight import pieces
from tracer.repl.listing import ranked
from tracer.repl.pager import paged, pager
from tracer.repl.result import Screen
from tracer.repl.setting import Settings

TABLE = command_table()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("break nvme.CC if value & 0x10", "command break word if operator & number 0x10"),
        ("nonsense 1.5s; con", "unknown nonsense number 1.5s operator ; begun con"),
        ("mark don't # why", "command mark comment # why"),
        ("set $rax 3", "command set register $rax number 3"),
        ('b if symbol ~ "a;b', 'command b word if operator ~ text "a;b'),
        ("py x = 1; if 2: 3", "command py"),
    ],
)
def test_the_pieces_of_a_line(line: str, told: str) -> None:
    found = list(pieces(line, TABLE.judge, TABLE.takes_line))
    assert "".join(text for _, text in found) == line
    assert " ".join(f"{kind} {text}" for kind, text in found if kind != "plain") == told
    styled = Colours(TABLE.judge, TABLE.takes_line).lex_document(Document(line))
    assert [text for _, text, *_ in styled(0)] == [text for _, text in found] and not styled(1)


def test_what_fits_best_comes_first() -> None:
    names = ["xCSTS", "CMBSTS", "CSTS", "other", "csts_2"]
    assert ranked("CSTS", names) == ["CSTS", "csts_2", "xCSTS", "CMBSTS"]
    assert ranked("", names) == sorted(names)


def test_the_menu_tells_what_a_word_can_become() -> None:
    async def body() -> None:
        talk = await Talk().start()
        menu = Menu(Candidates(talk.context), lambda: 120)

        def offered(line: str) -> list[tuple[str, str]]:
            made = menu.get_completions(Document(line), CompleteEvent())
            return [(each.text, each.display_meta_text) for each in made]

        assert offered("break CSTS")[0] == ("nvme.CSTS", "+0x1c  Controller Status, read-only")
        assert offered("until reset_w") == [("nvme_reset_work", "0xffffffff81002000")]
        assert "continue" in dict(offered("cntn"))
        assert offered("undisplay") == []  # there is nothing to choose
        await talk.control.close()

    asyncio.run(body())


@pytest.mark.parametrize("columns", [120, 80, 60, 20])
@pytest.mark.parametrize("line", ["break ", "info ", "", "info register ", "until nvme"])
def test_the_menu_is_cut_to_the_terminal_as_all_else(line: str, columns: int) -> None:
    async def body() -> None:
        talk = await Talk().start()
        menu = Menu(Candidates(talk.context), lambda: columns)
        made = list(menu.get_completions(Document(line), CompleteEvent()))
        await talk.control.close()
        # Ref: prompt_toolkit 3.0, CompletionsMenuControl: two blanks around each, a scroll bar.
        widths = [max(map(len, told), default=0) + 2 for told in (
            [each.display_text for each in made], [each.display_meta_text for each in made],
        ) if any(told)]  # fmt: skip
        assert made and sum(widths) + 1 <= columns
        assert not any("..." in each.display_text + each.display_meta_text for each in made)

    asyncio.run(body())


def test_words_of_a_command_are_told_in_the_menu_as_in_its_help() -> None:
    async def body() -> None:
        talk = await Talk().start()
        menu = Menu(Candidates(talk.context), lambda: 120)
        made = menu.get_completions(Document("info "), CompleteEvent())
        offered = {each.text: each.display_meta_text for each in made}
        assert offered.items() <= dict(TABLE.find("info").words).items() and all(offered.values())
        assert "rules" in offered and "trace" not in offered  # this is no recording
        told = "\n".join(described(TABLE.find("info")).lines(Screen(80)))
        assert all(hint in told for hint in offered.values())
        await talk.control.close()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("break ", "read write access symbol unhandled verdict tdcall hypercall if"),
        ("break nvme ", "if once times after pending"), ("tbreak read nvme.CC ", "once"),
        ("rule ", "on off"), ("rule on read nvme ", "if once times after pending do"),
        ("rule on read nvme do ", "give delay refuse retry"), ("set ", "value pager editing-mode"),
        ("filter ", "read write off"), ("filter write nvme ", "if pending"), ("hide ", "off"),
        ("tally ", "count sum min max avg stats hist lhist delta off"), ("regs ", "all"),
        ("tally count ", "by if"), ("save ", "breaks"), ("watch ", "on off all clocks no"),
        ("show ", "last next"), ("trace ", "on off"), ("fault ", "gp pf"),
    ],
)  # fmt: skip
def test_each_word_of_a_command_has_its_hint(line: str, words: str) -> None:
    async def body() -> None:
        talk = await Talk().start()
        menu = Menu(Candidates(talk.context), lambda: 120)
        made = menu.get_completions(Document(line), CompleteEvent())
        offered = {each.text: each.display_meta_text for each in made}
        assert all(offered[word] for word in words.split())
        await talk.control.close()

    asyncio.run(body())


def test_what_a_break_on_a_function_names_follows_its_word() -> None:
    async def body() -> None:
        talk = await Talk().start()
        candidates = Candidates(talk.context)

        def names(before: str) -> list[str]:
            return [each.text for each in candidates.of(before).options]

        assert "symbol" in names("break sy")
        behind = names("break symbol ")
        assert behind and "symbol" not in behind and not {"if", "read"} & set(behind)
        assert {"value", "register"} <= set(names("tally hist("))
        await talk.control.close()

    asyncio.run(body())


def test_settings_are_told_and_refused() -> None:
    assert Settings().with_("pager", "off") == Settings(pager=False)
    assert Settings().with_("editing-mode", "vi").editing == "vi"
    with pytest.raises(UsageError, match="editing-mode cannot be vim; did you mean vi"):
        Settings().with_("editing-mode", "vim")


def test_a_pager_is_the_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", "cat")
    assert pager() is None
    monkeypatch.setenv("PAGER", "more -d")
    assert pager() == "more -d"
    assert asyncio.run(paged(["a", "b"], "grep -q b"))
    assert not asyncio.run(paged(["a"], "/no/such/pager 2>/dev/null"))
