"""A host decides: by rules and by a person's Python, on a simulated guest that nobody holds."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stop_sample
from guest_sample import MAPS, trapped
from simulated import DEVICE, RIP, Guest, Made, accesses

from tracer.access.decision import NO_LEEWAY, Delay, Give, Leeway, Postpone, Refuse
from tracer.access.region import Choice
from tracer.confidential.kind import Kind
from tracer.confidential.request import MapGpa
from tracer.errors import ConditionError, HostFailed, UsageError
from tracer.host.own_code import blamed, made_of, read_text, run_file
from tracer.query.rule import AHEAD
from tracer.repl.names import known_of
from tracer.session.host import Host, ruled_host
from tracer.session.own_host import OwnHost, delay, own_host, refuse, retry
from tracer.trace.flat import Access
from tracer.trace.naming import Naming
from tracer.trace.record import Intercept, Mark, Record, UserRecord

STEPPED = "0fae06"  # fxsave [rsi]


class Ruled:
    """A guest that runs to its end by its host's rules, and what became of its accesses."""

    def __init__(self, *texts: str, own: OwnHost | None = None, **guest: Any) -> None:
        self.guest = Guest(guest.pop("steps", accesses()), **guest)
        self.session = self.guest.session()
        self.records: list[Record] = []
        self.made = Made()
        self.session.subscribers += [self.records.append, self.made]
        self.naming = Naming(MAPS)
        self.host: Host
        self._texts, self._own = texts, own

    def install(self) -> None:
        known = known_of(self.session, self.naming)
        for text in self._texts:
            self.host.add(text, known)
        if self._own is not None:
            self.host.take(self._own, known)
        if self.host.needs_records:
            self.session.subscribers.append(self.host.outlook.take)

    def run(self) -> Ruled:
        async def body() -> None:
            await self.session.refresh_regions()
            self.host = ruled_host(self.session, self.naming)
            self.install()
            await trapped(self.session)
            await self.session.run()

        asyncio.run(body())
        return self

    @property
    def notes(self) -> list[str | None]:
        return [record.note for record in self.records if isinstance(record, Intercept)]

    @property
    def deeds(self) -> list[str]:
        return [record.text for record in self.records if isinstance(record, UserRecord)]


def own(mmio: Callable[[Access], object], *on: str) -> OwnHost:
    return OwnHost("own.py", "/x/own.py", mmio, None, on)


# ---- rules


def test_reads_are_given_values_and_devices_get_values() -> None:
    done = Ruled(
        "on read nvme.CSTS once do give 0xffffffff", "on write nvme.CC times 2 do give 7"
    ).run()
    assert done.made.made == [
        ("read", 0xFFFFFFFF), ("write", 7), ("read", 1), ("write", 7), ("read", 1), ("write", 0),
    ]  # fmt: skip
    assert done.guest.device[0x14] == 0
    first, second, *_ = [record for record in done.records if isinstance(record, Intercept)]
    assert (first.accesses[0].value, first.accesses[0].device) == (0xFFFFFFFF, 1)
    assert (second.accesses[0].value, second.accesses[0].device) == (0, 7)
    assert done.notes == ["by rule 1", "by rule 2", None, "by rule 2", None, None]
    assert done.host.applied == 3
    assert done.deeds == [
        "rule 1: on read nvme.CSTS once do give 0xffffffff",
        "rule 2: on write nvme.CC times 2 do give 7",
    ]
    assert list(done.host.told()) == [
        "rule 1 applied once: on read nvme.CSTS once do give 0xffffffff",
        "rule 2 applied 2 times: on write nvme.CC times 2 do give 7",
    ]


def test_a_rule_without_effect_says_why_at_the_end() -> None:
    done = Ruled("on write hpet pending do give 1", "on read if value == 3 do give 1").run()
    assert list(done.host.told()) == [] and done.host.applied == 0
    assert list(done.host.idle()) == [
        "rule 1 never applied: no region came that it names: on write hpet pending do give 1",
        "rule 2 never applied: its condition held for none of the 3 accesses that came to it: "
        "on read if value == 3 do give 1",
    ]


def test_a_condition_knows_the_value_of_a_read_and_of_a_write() -> None:
    done = Ruled("on if value == 1 once do give 5", "on if value == 0 once do give 6").run()
    assert done.made.made[:3] == [("read", 5), ("write", 6), ("read", 1)]


def test_a_condition_knows_who_called_and_what_was_before() -> None:
    done = Ruled(
        "on read if callers is nvme_reset_work and changes do give 9",
        "on read if mark == here do give 8",
    )
    done.run()
    assert done.made.made[0] == ("read", 9) and done.made.made[2] == ("read", 1)


def test_an_access_that_is_late() -> None:
    waited: list[int] = []

    class Slow(Guest):
        async def run_alone(self, linear: int, changes: Any = ()) -> None:
            await super().run_alone(linear, changes)
            if self.registers_now["rip"] == self.view_gate.stub.waiting:
                waited.append(self.registers_now["rcx"])
                self.registers_now["rip"] = linear

    done = Ruled("on read nvme.CSTS once do delay 1us", "on write once do delay 100ms")
    done.guest = Slow(accesses())
    done.session = done.guest.session()
    done.session.subscribers += [done.records.append, done.made]
    done.run()
    # A turn of the vCPU takes 4 ns; long ones are done in pieces.
    _, first, *rest = waited  # the first makes the time even, before anything is traced
    assert first == 250 and sum(rest) == 25_000_000 and len(rest) > 1
    assert done.notes[:3] == ["by rule 1, 1e-06 s late", "by rule 2, 0.1 s late", None]
    assert done.made.made[:2] == [("read", 1), ("write", 0)]


def test_what_the_vcpu_carries_out_by_itself_cannot_be_given_a_value_and_that_is_told() -> None:
    host = Ruled("on write nvme do give 1")
    asyncio.run(_prepared(host))
    pending = stop_sample.stepped(STEPPED, "not emulated: fxsave", 4, "write")
    assert host.host.before(pending) is None and host.host.before(pending) is None
    told = [record.text for record in host.records if isinstance(record, Mark)]
    assert told[-1].startswith("rule 1 did not change the write of nvme+0x20 at ")
    assert told[-1].endswith("by itself (not emulated: fxsave)") and len(host.session.warnings) == 1
    assert host.host.applied == 0 and next(host.host.idle()).startswith("rule 1 never applied")


async def _prepared(ruled: Ruled) -> None:
    await ruled.session.refresh_regions()
    ruled.host = ruled_host(ruled.session, ruled.naming)
    ruled.install()


def test_a_value_that_is_too_wide_is_cut_and_that_is_told() -> None:
    done = Ruled("on read nvme once do give 0x1200000003").run()
    assert done.made.made[0] == ("read", 3)
    (told,) = done.session.warnings
    assert "the value of rule 1 is wider than the read of nvme+0x1c" in told


@pytest.mark.parametrize("verb", ["refuse", "retry"])
def test_a_plain_guest_is_refused_nothing(verb: str) -> None:
    with pytest.raises(UsageError, match=f"^{verb} is an answer .* --guest tdx or --guest sev-es$"):
        Ruled(f"on read nvme do {verb}").run()


def test_a_rule_for_what_is_not_traced_is_refused() -> None:
    done = Ruled("on read nvme.CSTS do give 1")

    async def body() -> None:
        await done.session.choose(Choice((), ("nvme",)), done.guest.space)
        done.host = ruled_host(done.session, done.naming)
        done.install()

    asyncio.run(done.session.refresh_regions())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nvme is not traced, so no rule can be asked"):
        asyncio.run(body())


def test_a_condition_without_an_answer_ends_the_run() -> None:
    with pytest.raises(ConditionError, match=r"^rule 1: "):
        Ruled("on read if value // 0 == 1 do give 1").run()


# ---- a person's Python


def test_rules_are_asked_before_python() -> None:
    seen: list[tuple[int, str, int | None]] = []

    def mmio(access: Access) -> object:
        seen.append((access.seq, access.direction, access.value))
        return 0x10 if access.direction == "read" else None

    done = Ruled("on read once do give 3", own=own(mmio)).run()
    assert [value for way, value in done.made.made if way == "read"] == [3, 0x10, 0x10]
    # A read comes with what its device has answered.
    assert seen == [(n, "write" if n % 2 else "read", 0 if n % 2 else 1) for n in range(1, 6)]
    assert done.notes[0] == "by rule 1" and done.notes[2] == "by own.py"
    assert done.deeds == ["rule 1: on read once do give 3", "host own.py"]


def test_an_access_is_flat_and_named() -> None:
    seen: list[Access] = []
    Ruled(own=own(seen.append)).run()
    first = seen[0]
    assert (first.region, first.register, first.offset, first.width) == ("nvme", "CSTS", 0x1C, 4)
    assert (first.physical, first.rip, first.vcpu, first.via) == (DEVICE + 0x1C, RIP, 0, "emulated")
    assert first.function == "nvme_reset_work" and first.time_ns == 1_000_000_000
    assert first.device_value is None and not first.skipped


def test_python_is_asked_about_what_it_names() -> None:
    seen: list[str | None] = []

    def mmio(access: Access) -> None:
        seen.append(access.register)

    done = Ruled(own=own(mmio, "write nvme.CC", "read hpet pending")).run()
    assert seen == ["CC"] * 3
    nvme = done.session.view.regions
    assert done.host.leeway(nvme) == Leeway((range(DEVICE + 0x14, DEVICE + 0x18),))


@pytest.mark.parametrize(
    ("told", "ruling"),
    [
        (None, None), (0, Give(0, "own.py")), (-1, Give(0xFFFFFFFF, "own.py")),
        (delay(5), Delay(5, "own.py")), (delay(0), None), (refuse, Refuse("own.py")),
        (retry, Postpone("own.py")),
    ],
)  # fmt: skip
def test_what_python_returns(told: object, ruling: object) -> None:
    assert own(lambda access: told).rule(_access()) == ruling


def _access() -> Access:
    seen: list[Access] = []
    Ruled(own=own(seen.append), steps=accesses(1)).run()
    return seen[0]


@pytest.mark.parametrize("told", ["yes", 1.5, True, b"1", [1], 1 << 32, -(1 << 31) - 1])
def test_what_means_nothing_ends_the_run_with_its_file(told: object) -> None:
    with pytest.raises(HostFailed, match=r"^/x/own\.py: mmio returned "):
        Ruled(own=own(lambda access: told)).run()


def test_python_cannot_refuse_anything_to_a_plain_guest() -> None:
    with pytest.raises(HostFailed, match=r"^/x/own\.py: refuse is an answer"):
        Ruled(own=own(lambda access: refuse)).run()


def test_python_answers_calls_of_a_confidential_guest() -> None:
    asked = MapGpa(0x1000, 0x1000, True)
    told: list[object] = []
    host = OwnHost("own.py", "/x/own.py", None, lambda call: told.append(call) or refuse)
    assert host.answer(asked) == Refuse("own.py") and told == [asked]
    assert own(print).answer(asked) is None
    with pytest.raises(HostFailed, match=r"^/x/own\.py: hypercall returned 'no'"):
        OwnHost("own.py", "/x/own.py", None, lambda call: "no").answer(asked)
    done = Ruled(own=host).run()
    regions = done.session.view.regions
    assert done.host.leeway(regions) != NO_LEEWAY  # an ordinary guest makes no calls
    done.host.kind = Kind.TDX
    assert done.host.leeway(regions) == NO_LEEWAY
    assert done.host.called(asked) == Refuse("own.py") and done.host.applied == 1
    assert list(done.host.told()) == ["own.py decided about 0 accesses, and about 1 call"]
    done.host.take(OwnHost("own.py", "/x/own.py", None, lambda call: retry), AHEAD)
    assert done.host.called(asked) == Postpone("own.py")
    done.host.kind = Kind.SEV_ES
    with pytest.raises(HostFailed, match=r"^/x/own\.py: retry is an answer to a TDX guest"):
        done.host.called(asked)
    assert Ruled().run().host.called(asked) is None


def test_an_error_in_python_ends_the_run_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "hostile.py"
    path.write_text(
        "def helper():\n    return {}['CC']\n\ndef mmio(access):\n    return helper()\n"
    )
    host = own_host(_names(run_file(path)), path.name, str(path))
    with pytest.raises(HostFailed) as caught:
        Ruled(own=host).run()
    assert str(caught.value) == f"{path}:2: KeyError: 'CC'"
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_python_cannot_end_the_run_without_a_word(error: BaseException) -> None:
    def mmio(access: Access) -> None:
        raise error

    with pytest.raises(HostFailed, match=rf"^/x/own\.py: {type(error).__name__}"):
        Ruled(own=own(mmio)).run()


class _names:
    def __init__(self, space: dict[str, object]) -> None:
        self.__dict__.update(space)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_breaks_off_python_that_does_not_end(number: signal.Signals) -> None:
    def mmio(access: Access) -> None:
        os.kill(os.getpid(), number)
        while True:
            pass

    known = signal.getsignal(number)
    assert own(mmio).rule(_access()) is None and signal.getsignal(number) is known


def test_beside_the_main_thread_python_is_called_as_it_is() -> None:
    access, found = _access(), []
    thread = threading.Thread(target=lambda: found.append(own(lambda _: 3).rule(access)))
    thread.start()
    thread.join()
    assert found == [Give(3, "own.py")]


@pytest.mark.parametrize("wrong", [-1, 1 << 60, "1ms", 1.5, True, None])
def test_a_delay_is_a_number_of_nanoseconds(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="a delay is "):
        delay(wrong)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({}, "has no mmio"), ({"mmio": 3}, "mmio is no function"),
        ({"mmio": print, "on": 3}, "on is text"), ({"mmio": print, "on": [1]}, "on is text"),
        ({"hypercall": "no"}, "hypercall is no function"),
    ],
)  # fmt: skip
def test_what_is_no_host(names: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        own_host(_names(names), "x.py", "/x.py")


def test_a_host_of_hypercalls_alone_has_no_say_in_accesses() -> None:
    host = own_host(_names({"hypercall": print}), "x.py", "/x.py")
    done = Ruled(own=host).run()
    assert host.rule(_access()) is None and done.host.leeway(done.session.view.regions) == Leeway()


# ---- files


def test_a_file_is_run_and_blamed(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Host:\n    count: int = 0\n"
    )
    assert getattr(made_of(run_file(path)["Host"], str(path)), "count") == 0  # noqa: B009 - no type is known
    for text, words in (
        ("x = (\n", f"{path}:1: "),
        ("\nraise ValueError('a\\nb')\n", f"{path}:2: ValueError: a b"),
        ("import sys\nsys.exit(3)\n", f"{path}:2: SystemExit: 3"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            run_file(path)
        assert str(caught.value).startswith(words)
    for text, words in (
        ("class Host:\n    def __init__(self, needed):\n        pass\n", ": TypeError: .*needed"),
        ("class Host:\n    def __init__(self):\n        exit(3)\n", ":3: SystemExit: 3"),
    ):
        path.write_text(text)
        kind = run_file(path)["Host"]
        assert isinstance(kind, type)
        with pytest.raises(UsageError, match=rf"own\.py{words}"):
            made_of(kind, str(path))
    assert blamed(ValueError(), "x.py") == "x.py: ValueError"
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is no UTF-8 text: byte 0 is 0xff"):
        read_text(path)
    for read in (run_file, read_text):
        with pytest.raises(UsageError, match="cannot read"):
            read(tmp_path / "none")
