"""The meaning of `is`: something goes by a name, which may be a pattern.

A region goes by its device's name too, a call site by its function's, a register by that of its
region and its own, in either case of letters. Whatever else is text goes by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from fnmatch import translate
from functools import lru_cache
from typing import Any

from tracer.devices.map import fits_register
from tracer.query.condition.closure import Run, Unknown
from tracer.query.condition.lexicon import fits
from tracer.query.condition.vocabulary import COVERED, OWNERS, SITE, Facts
from tracer.trace.name import names_region, names_symbol

_KEPT = 1024


def named(name: str, pattern: str) -> Run:
    """Return what tells whether a fact, by its name, goes by a pattern."""
    match name:
        case "region":
            return _both(lambda region, owners: names_region(pattern, region, owners), OWNERS)
        case "register":
            return _both(lambda region, names: _covers(pattern, region, names), COVERED)
        case "symbol":
            return _one(SITE, lambda site: bool(site) and names_symbol(pattern, site))
        case "callers":
            return _one(name, lambda sites: any(fits(pattern, site) for site in sites))
    return _one(name, lambda text: fits(pattern, text))


def fitting(run: Run, pattern: str, *, several: bool, wanted: bool) -> Run:
    """Return whether a text fits a pattern as file names do, or any of ``several`` does."""
    match = re.compile(translate(pattern)).match

    @lru_cache(_KEPT)
    def holds(fact: Any) -> bool:
        texts = fact if several else (fact,)
        return any(match(text) is not None for text in texts)

    return lambda facts: holds(run(facts)) is wanted


def _covers(pattern: str, region: str, names: Collection[str]) -> bool:
    return any(fits_register(pattern, region, name) for name in names)


# Names are few and come often. Nothing is called between, as each access asks.
def _one(name: str, holds: Callable[..., bool]) -> Run:
    kept = lru_cache(_KEPT)(holds)

    def run(facts: Facts) -> bool:
        fact = facts[name]
        if fact is None:
            raise Unknown
        return kept(fact)

    return run


def _both(holds: Callable[..., bool], other: str) -> Run:
    kept = lru_cache(_KEPT)(holds)

    def run(facts: Facts) -> bool:
        region, names = facts["region"], facts[other]
        if region is None or names is None:
            raise Unknown
        return kept(region, names)

    return run
