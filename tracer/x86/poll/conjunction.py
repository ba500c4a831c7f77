"""Conditions on one value that hold together where a loop ends, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracer.x86.poll.condition import Way

Conjunction = frozenset[Way]
"""Ways that a value takes all."""

_MOST = 32
"""Conjunctions beyond which none is looked at: code that branches so often tests no two bits."""


def conjunction(ways: Iterable[Way | None]) -> Conjunction:
    """Return what is known to hold together, of conditions of which some are not followed."""
    return frozenset(way for way in ways if way is not None and way.mask)


def simplified(found: Sequence[Conjunction]) -> list[Conjunction]:
    """Return each conjunction without what makes no difference to whether any of them holds.

    A way makes none where its opposite leads out as well, whatever code it leads through. Their
    order stays.
    """
    left = list(found)
    if len(set(left)) > _MOST:
        return left
    for at, each in enumerate(left):
        for way in sorted(each, key=lambda way: (way.mask, way.value)):
            rest = left[at] - {way}
            turned = rest | {way.opposite}
            if rest and any(other <= turned for other in left if other):
                left[at] = rest
    return left


def joined(ways: Conjunction) -> Way | None:
    """Return the one way that says the same, None where there is none.

    What a value must not be is left out beside what it must be.
    """
    if len(ways) == 1:
        return next(iter(ways))
    mask = value = 0
    for way in ways:
        if not way.equal:
            continue
        if (value ^ way.value) & mask & way.mask:
            return None
        mask, value = mask | way.mask, value | way.value
    return Way(mask, value) if mask else None
