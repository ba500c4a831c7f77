"""Values from a seed: which accesses are hit, and what becomes of them."""

from __future__ import annotations

from collections import Counter

import pytest
import trace_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from tracer.access.decision import Refuse
from tracer.session.mutation import (
    MOST_BITS,
    Mutation,
    aim,
    boundaries,
    draw,
    mutated,
    mutating_host,
)
from tracer.trace.event import events_of
from tracer.trace.flat import Stacks, flat

SEEDS = range(400)
SEED = st.integers(0, (1 << 64) - 1)


@given(SEED, st.integers(0, 10_000), st.integers(0, (1 << 64) - 1), st.sampled_from([1, 2, 4, 8]))
def test_a_value_is_another_one_of_the_same_width(
    seed: int, number: int, value: int, width: int
) -> None:
    value &= (1 << 8 * width) - 1
    found = mutated(seed, number, value, width)
    assert found != value and 0 <= found < 1 << 8 * width
    assert found == mutated(seed, number, value, width)


@given(SEED, SEED)
def test_draws_are_64_bits_and_differ(seed: int, other: int) -> None:
    assert 0 <= draw(seed, 1) < 1 << 64
    assert (draw(seed, 1) == draw(other, 1)) == (seed == other)
    assert draw(seed, 1, 2) != draw(seed, 2, 1)


def test_interesting_values_come() -> None:
    found = Counter(mutated(seed, 3, 0x00170020, 4) for seed in SEEDS)
    flips = sum(count for value, count in found.items() if (value ^ 0x00170020).bit_count() == 1)
    assert found[0xFFFFFFFF] > 20 and found[0] > 20 and flips > 60
    assert any(found[edge] for edge in boundaries(32)) and len(found) > 80


def test_bits_are_flipped_everywhere() -> None:
    flipped = {
        (mutated(seed, 0, 0x1234, 2) ^ 0x1234).bit_length() - 1
        for seed in range(2000)
        if (mutated(seed, 0, 0x1234, 2) ^ 0x1234).bit_count() == 1
    }
    assert flipped == set(range(16))


def test_half_of_the_seeds_hit_one_access_and_early_ones_more_often() -> None:
    alone = [found.only for found in map(aim, SEEDS) if found.only is not None]
    assert len(SEEDS) / 3 < len(alone) < 2 * len(SEEDS) / 3
    assert max(alone) < 1 << MOST_BITS and sum(only < 32 for only in alone) > len(alone) / 3
    some = next(found for found in map(aim, SEEDS) if found.only == 5)
    assert [number for number in range(100) if some.hits(number)] == [5]


def test_others_hit_a_share() -> None:
    shares = Counter(found.share for found in map(aim, SEEDS) if found.only is None)
    assert set(shares) == {2, 8, 32} and min(shares.values()) > 20
    for found in (found for found in map(aim, SEEDS) if found.only is None):
        hit = sum(map(found.hits, range(6400)))
        assert 0.5 < hit * found.share / 6400 < 1.6


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_boundaries_fit(bits: int) -> None:
    found = boundaries(bits)
    assert len(set(found)) == len(found) > 5 and max(found) < 1 << bits
    assert {1, (1 << bits - 1) - 1, 1 << bits - 1} <= set(found)


def test_a_confidential_guest_is_refused_some() -> None:
    (event,) = events_of(sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1)))
    access = flat(event, Stacks())
    told = [Mutation(seed, confidential=True).mmio(access) for seed in SEEDS if aim(seed).hits(0)]
    refused = sum(isinstance(each, Refuse) for each in told)
    assert len(told) / 20 < refused < len(told) / 4
    plain = [Mutation(seed).mmio(access) for seed in SEEDS]
    assert not any(isinstance(each, Refuse) for each in plain)


def test_a_host_mutates_what_it_hits() -> None:
    seed = next(seed for seed in SEEDS if aim(seed).only == 1)
    (event,) = events_of(sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1)))
    host, access = mutating_host(seed, "read nvme"), flat(event, Stacks())
    assert host.on == ("read nvme",)
    rulings = [host.rule(access) for _ in range(4)]
    assert [ruling is None for ruling in rulings] == [True, False, True, True]
