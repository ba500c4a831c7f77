"""Looks at a guest that runs, again and again."""

from __future__ import annotations

from playbook import play

from tracer.access.stop import Ran, Stopped
from tracer.access.vcpu import SetRegister
from tracer.access.want import Await, Pause, Start
from tracer.session.looks import BEAT, Looks

OURS, ANOTHER = Stopped(signal="SIGINT"), Stopped("breakpoint-hit", 1, 0x1000, 7, "SIGTRAP")
CHANGES = [SetRegister("rax", 1)]
ON = (Await(BEAT), None)


def looks() -> tuple[Looks, list[str]]:
    made: list[str] = []

    async def look() -> None:
        made.append("looked")

    return Looks(3 * BEAT, look), made


def test_a_guest_is_asked_to_stop_when_it_is_time() -> None:
    ours, made = looks()
    steps = [(Start(CHANGES), None), ON, ON, ON, (Pause(), None), ON, (Await(BEAT), Ran(OURS))]
    assert play(ours.resume(CHANGES), *steps).stop is OURS
    assert play(ours.stopped(OURS)) and made == ["looked"]
    # The time begins anew.
    steps = [(Start(()), None), ON, ON, (Await(BEAT), Ran(ANOTHER))]
    assert play(ours.resume(()), *steps).stop is ANOTHER
    assert not play(ours.stopped(ANOTHER)) and made == ["looked"]


def test_times_between_stops_add_up() -> None:
    ours, _ = looks()
    for _ in range(2):
        play(ours.resume(()), (Start(()), None), ON, (Await(BEAT), Ran(ANOTHER)))
    play(ours.passed(BEAT), (Pause(), None))


def test_a_stop_that_came_first_is_acted_on() -> None:
    ours, made = looks()
    play(ours.passed(3 * BEAT), (Pause(), None))
    assert not play(ours.stopped(ANOTHER)) and made == ["looked"]


def test_a_run_whose_time_is_over_ends() -> None:
    ours, made = looks()
    play(ours.passed(3 * BEAT), (Pause(), None))
    assert not play(ours.stopped(Stopped(signal="SIGINT", expired=True))) and made == ["looked"]
