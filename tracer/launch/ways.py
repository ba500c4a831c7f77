"""The ways to trace a guest, one after the other: the guest is started anew for each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from tracer.errors import GuestError, InterceptError, NoEntries

_T = TypeVar("_T")

_ANEW = "{why}: the guest was started anew, and is traced by physical address (--trap nested)"


@contextlib.asynccontextmanager
async def first_standing(
    ways: Sequence[AbstractAsyncContextManager[_T]], progress: Callable[[str], None]
) -> AsyncIterator[_T]:
    """Enter the first of the ways that can be, and leave it with the block.

    Each but the last has traps at page-table entries; where these cannot be, the next is entered,
    and ``progress`` is called with a line that says so. Where that cannot be either, the error is
    about the entries. Raises what a way raises as it is entered.
    """
    lacking: NoEntries | None = None
    async with contextlib.AsyncExitStack() as stack:
        for way in ways:
            try:
                standing = await stack.enter_async_context(way)
            except (GuestError, InterceptError) as error:
                if lacking is None and isinstance(error, NoEntries):
                    lacking = error
                    continue
                raise lacking or error from None
            if lacking is not None:
                progress(_ANEW.format(why=lacking))
            yield standing
            return
        assert lacking is not None
        raise lacking
