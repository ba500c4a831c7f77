import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tracer.errors import GuestError, InterceptError, NoEntries, QemuError
from tracer.launch.ways import first_standing


class Tried:
    """Ways to trace a guest, each with the error that it meets, and what became of them."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = errors
        self.entered: list[int] = []
        self.left: list[int] = []
        self.told: list[str] = []

    @contextlib.asynccontextmanager
    async def _way(self, number: int) -> AsyncIterator[int]:
        self.entered.append(number)
        try:
            error = self.errors[number]
            if error is not None:
                raise error
            yield number
        finally:
            self.left.append(number)

    def run(self, error: Exception | None = None) -> int:
        """Return the way that stands; the block raises the error."""

        async def run() -> int:
            ways = [self._way(number) for number in range(len(self.errors))]
            async with first_standing(ways, self.told.append) as standing:
                assert standing not in self.left
                if error is not None:
                    raise error
                return standing

        return asyncio.run(run())


def test_the_first_that_can_be_stands_alone() -> None:
    tried = Tried(None, None)
    assert tried.run() == 0
    assert (tried.entered, tried.left, tried.told) == ([0], [0], [])


def test_the_next_stands_where_entries_cannot_be_and_a_line_says_why() -> None:
    tried = Tried(NoEntries("no handler"), None)
    assert tried.run() == 1
    assert tried.left == [0, 1]
    assert tried.told == [
        "no handler: the guest was started anew, and is traced by physical address (--trap nested)"
    ]


@pytest.mark.parametrize("other", [GuestError("no SVM"), InterceptError("no room")])
def test_where_neither_can_be_it_is_told_why_entries_cannot(other: Exception) -> None:
    tried = Tried(NoEntries("no handler"), other)
    with pytest.raises(NoEntries, match="no handler"):
        tried.run()
    assert (tried.left, tried.told) == ([0, 1], [])


@pytest.mark.parametrize("ways", [(NoEntries("no handler"),), (NoEntries("no handler"),) * 2])
def test_without_another_way_that_is_an_error(ways: tuple[Exception, ...]) -> None:
    with pytest.raises(NoEntries, match="no handler"):
        Tried(*ways).run()


@pytest.mark.parametrize("error", [QemuError("gone"), GuestError("no kernel")])
def test_nothing_else_has_a_guest_started_anew(error: Exception) -> None:
    tried = Tried(error, None)
    with pytest.raises(type(error)):
        tried.run()
    assert tried.entered == [0]


def test_a_guest_that_has_begun_is_not_started_anew() -> None:
    tried = Tried(None, None)
    with pytest.raises(NoEntries):
        tried.run(NoEntries("later"))
    assert (tried.entered, tried.left) == ([0], [0])
