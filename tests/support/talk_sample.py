"""What the tests of the prompt's commands type, and what they expect of it in general."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from guest_sample import Talk


def run(test: Callable[[Talk], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a test with a guest that stands at its kernel's entry."""

    async def body() -> None:
        talk = await Talk(**options).start()
        try:
            await test(talk)
        finally:
            await talk.control.close()

    asyncio.run(body())


def told(*lines: str, **options: Any) -> Talk:
    """Type lines, all of which have to do; return what came of it."""
    kept: list[Talk] = []

    async def test(talk: Talk) -> None:
        kept.append(talk)
        assert await talk.type(*lines) == 0, talk.complaints

    run(test, **options)
    return kept[0]


def refused(*lines: str, status: int = 2, before: tuple[str, ...] = ()) -> str:
    """Type a line that has to fail, and leaves the guest where it was; return why."""
    kept: list[str] = []

    async def test(talk: Talk) -> None:
        assert await talk.type(*before) == 0, talk.complaints
        halt, made = talk.control.halt, list(talk.made)
        breaks, choice = talk.context.run.breaks, talk.session.choice
        assert await talk.type(*lines) == status
        assert (talk.control.halt, talk.made) == (halt, made)
        assert (talk.context.run.breaks, talk.session.choice) == (breaks, choice)
        kept.append("\n".join(talk.complaints))

    run(test)
    return kept[0]
