"""tracer.linux.kallsyms: the symbols of an image, in every layout, whole or damaged."""

from __future__ import annotations

import contextlib
import random

import kallsyms_sample as sample
import pytest
from kallsyms_sample import LAYOUTS, Layout

from tracer.access.symbols import Symbol
from tracer.errors import KernelImageError
from tracer.linux.kallsyms import find_symbols

COUNT = 3000


def known(layout: Layout) -> list[Symbol]:
    made = sample.symbols(COUNT, big_names=layout.big_names)
    # Only the older layouts have absolute values.
    return made if layout.relative == "percpu" else [s for s in made if s.kind != "A"]


def link_of(offset: int) -> int:
    return sample.LINK + offset


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("before", [4096, 4100, 4104])
def test_every_layout(layout: Layout, before: int) -> None:
    made = known(layout)
    assert find_symbols(sample.image(layout, made, before), link_of) == made


def test_an_earlier_list_of_digits_is_passed_over() -> None:
    made = known(LAYOUTS[1])
    digits = b"".join(b"%d\0" % digit for digit in range(10))
    image = sample.image(LAYOUTS[1], made)
    assert find_symbols(digits + image[len(digits) :], link_of) == made


@pytest.mark.parametrize("image", [b"", bytes(5000), b"0\x001\x002\x00" * 1000])
def test_an_image_without(image: bytes) -> None:
    with pytest.raises(KernelImageError, match="no kallsyms"):
        find_symbols(image, link_of)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_damaged_image_gives_an_error_or_symbols(layout: Layout) -> None:
    made = known(layout)
    image = sample.image(layout, made)
    chance = random.Random(1)
    for _ in range(40):
        damaged = bytearray(image)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        with contextlib.suppress(KernelImageError):
            assert len(find_symbols(cut, link_of)) == len(made)


def test_a_name_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    token = b"x" * 300  # four of it are more than any name
    plain = sample.make_tokens
    monkeypatch.setattr(sample, "make_tokens", lambda texts: [*plain(texts)[:255], token])
    made = known(LAYOUTS[3])
    bomb = [*made[:-1], Symbol(made[-1].address, "T", token.decode() * 4)]
    with pytest.raises(KernelImageError, match="without end"):
        find_symbols(sample.image(LAYOUTS[3], bomb), link_of)
