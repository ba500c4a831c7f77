"""Numbers from a seed."""

from __future__ import annotations

from tracer.confidential.draw import Draw


def test_the_numbers_are_those_of_splitmix64() -> None:
    # The reference implementation's first five for 1234567 (prng.di.unimi.it, splitmix64.c).
    draw = Draw(1234567)
    assert [draw.bits() for _ in range(5)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821,
    ]  # fmt: skip


def test_each_draw_keeps_its_bounds() -> None:
    draw = Draw(5)
    assert {draw.below(6) for _ in range(200)} == set(range(6))
    assert {draw.choice("abc") for _ in range(100)} == set("abc")
    assert 200 < sum(draw.chance(30) for _ in range(1000)) < 400
    assert not any(draw.chance(0) for _ in range(50)) and all(draw.chance(100) for _ in range(50))
    assert sorted(draw.shuffled(range(20))) == list(range(20)) != draw.shuffled(range(20))
    assert [len(draw.code(size)) for size in (0, 1, 8, 15)] == [0, 1, 8, 15]
