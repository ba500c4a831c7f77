"""Rules on Debian's kernel: what the guest makes of the values, and when it has them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from vetrace_run import CHECKOUT, Run, agreed, boot, read_trace, run

from tracer.api import boot as boot_guest
from tracer.trace.marker import ruled as ruled_by
from tracer.trace.record import Intercept, MemoryAccess, UserRecord

pytestmark = pytest.mark.qemu

PINS = "on read ioapic.VER times 3 do give 0x00ff0020"
GONE = "on read nvme.CSTS once do give 0xffffffff"
QUEUES = range(0x28, 0x38)  # ASQ and ACQ, addresses of RAM (NVM Express 1.4, 3.1.9, 3.1.10)
LATE_NS = 300_000_000
LATE = "on read virtio-blk.common once do delay 300ms"
CAP, CSTS = 0x0, 0x1C  # NVM Express Base Specification 1.4, 3.1
NEVER = "on write hpet+0x3f0 do give 1"


RULES = (PINS, GONE, LATE, NEVER)
OPTIONS = [word for text in RULES for word in ("--rule", text)]


@dataclass(frozen=True)
class Told:
    """One access to the NVMe controller, with what a rule made of it."""

    direction: str
    offset: int | None
    value: int | None
    device: int | None
    note: str | None
    time_ns: int


def told(trace: Path, region: str = "nvme") -> list[Told]:
    return [
        Told(
            access.direction, access.offset, access.value, access.device,
            ruled_by(record.note) or None, record.time_ns,
        )
        for record, access in accesses(trace)
        if access.region == region
    ]  # fmt: skip


def accesses(trace: Path) -> list[tuple[Intercept, MemoryAccess]]:
    return [(each, access) for each in read_trace(trace).intercepts for access in each.accesses]


def before_a_doorbell(made: list[Told]) -> list[Told]:
    """Two boots have this in common: QEMU answers a doorbell when the host gets to it."""
    end = next((n for n, each in enumerate(made) if (each.offset or 0) >= 0x1000), len(made))
    return made[:end]


def ruled(folder: Path, *options: str | Path) -> Run:
    return boot(folder, "--quiet", "--append", "loglevel=7", *options)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A boot whose host lies about two devices, and is late once."""
    return ruled(tmp_path_factory.mktemp("hostile"), "--check", *OPTIONS)


@pytest.mark.long
def test_the_guest_believes_in_256_pins(hostile: Run) -> None:
    assert any("IOAPIC[0]:" in line and "GSI 0-255" in line for line in hostile.serial)
    given = [
        (access.value, access.device, record.note)
        for record, access in accesses(hostile.trace)
        if access.region == "ioapic" and access.device is not None
    ]
    assert len(given) == 3
    # The high half is the version and the delivery through a PRQ, as the device has them.
    assert all(value == 0x00FF0020 for value, _, _ in given)
    assert all(device is not None and device >> 16 != 0xFF for _, device, _ in given)
    assert all(note == "by rule 1" for *_, note in given)


def test_a_controller_that_is_gone_ends_the_probe_and_the_boot_goes_on(hostile: Run) -> None:
    assert any("vetrace-guest: disk nvme none" in line for line in hostile.serial)
    assert any("vetrace-guest: done" in line for line in hostile.serial)
    (gone,) = [each for each in told(hostile.trace) if each.note == "by rule 2"]
    assert (gone.direction, gone.offset, gone.value) == ("read", CSTS, 0xFFFFFFFF)
    assert gone.device not in (None, 0xFFFFFFFF)


def test_the_run_ends_well_and_tells_what_rules_did(hostile: Run) -> None:
    assert agreed(hostile) > 0  # QEMU's log has what the devices gave
    said = "\n".join(hostile.complaints)
    assert f"rule 1 applied 3 times: {PINS}" in said and f"rule 2 applied once: {GONE}" in said
    assert f"rule 4 never applied: no access that it is for came to it: {NEVER}" in said
    assert "the guest found no disk nvme, which rules may have seen to" in said
    deeds = [r.text for r in read_trace(hostile.trace).records if isinstance(r, UserRecord)]
    assert deeds == [f"rule {number}: {text}" for number, text in enumerate(RULES, 1)]


def test_an_answer_that_is_late_is_late_by_the_guests_clock(hostile: Run) -> None:
    made = told(hostile.trace, "virtio-blk.common")
    (at,) = [index for index, each in enumerate(made) if each.note]
    assert (made[at].direction, made[at].device) == ("read", None)
    assert made[at].note == "by rule 3, 0.3 s late"
    assert LATE_NS <= made[at + 1].time_ns - made[at].time_ns < LATE_NS + 10_000_000


def test_rules_make_stops_of_what_they_concern_alone(hostile: Run) -> None:
    slow = {access.offset for record, access in accesses(hostile.trace)
            if access.region == "hpet" and record.via == "compiled"}  # fmt: skip
    assert slow
    window = [r.via for r, a in accesses(hostile.trace) if (a.region, a.offset) == ("ioapic", 0x10)]
    assert window[-1] == "compiled"  # the rule on it has been applied as often as it says


def test_replay_and_the_other_readers_take_the_trace(hostile: Run, tmp_path: Path) -> None:
    done = run(tmp_path, "replay", hostile.trace)
    assert done.status == 0 and "no divergence" in done.out
    done = run(tmp_path, "show", hostile.trace, "--region", "nvme", "--json")
    given = [each for each in done.objects if each.get("device") is not None]
    assert [(each["value"], each["note"]) for each in given] == [("0xffffffff", "by rule 2")]
    done = run(tmp_path, "show", hostile.trace, "--register", "CSTS")
    assert "(by rule 2)" in done.out and f"── user: rule 2: {GONE} ──" in done.out
    assert run(tmp_path, "stats", hostile.trace).status == 0


def test_the_same_rules_give_the_same_trace_by_either_way(tmp_path: Path) -> None:
    rules = ("on read nvme.CAP after 1 times 2 do delay 5ms", "on write nvme.CC once do give 0")
    options = ("--region", "nvme", "--rule", rules[0], "--rule", rules[1])
    runs = {
        name: ruled(tmp_path / name, *options, *more)
        for name, more in {"one": (), "other": (), "stops": ("--every-stop",)}.items()
    }
    assert all(done.status == 0 for done in runs.values())
    one, other, stops = (before_a_doorbell(told(done.trace)) for done in runs.values())
    assert len(one) == len(other) == len(stops)
    # A stop more or less of what the guest maps is some instructions.
    assert all(abs(a.time_ns - b.time_ns) < 10_000 for a, b in zip(one, other, strict=True))
    notes = [each.note for each in one if each.note]
    assert sorted(notes) == [*2 * ["by rule 1, 0.005 s late"], "by rule 2"]
    timeless = [[replace(each, time_ns=0) for each in made] for made in (one, other, stops)]
    assert timeless[0] == timeless[1]
    # By stops alone the guest has all of its RAM, and its queues may lie elsewhere.
    one_way, by_stops = (
        [replace(each, value=None) if each.offset in QUEUES else each for each in made]
        for made in timeless[1:]
    )
    assert one_way == by_stops


HOST = """
from collections import Counter
from tracer.api import Access, delay

class Host:
    on = ("nvme", "read ioapic.VER")

    def __init__(self) -> None:
        self.met = Counter()

    def mmio(self, access: Access) -> object:
        self.met[access.register] += 1
        if access.register == "VS":
            return access.value ^ 0x100  # one bit of the device's answer
        if access.register == "CC" and self.met["CC"] == 1:
            return delay(2_000_000)
        if access.register == "AQA":
            raise LookupError("enough")
        return None
"""


def test_a_host_in_python(tmp_path: Path) -> None:
    path = tmp_path / "hostile.py"
    path.write_text(HOST)
    rule = "on read nvme+0-0x1fff after 1 times 2 do delay 1ms"
    done = ruled(tmp_path, "--host", path, "--rule", rule)
    line = HOST.splitlines().index('            raise LookupError("enough")') + 1
    assert done.status == 1
    assert f"vetrace: {path}:{line}: LookupError: enough" in done.err
    assert "Traceback" not in done.err
    made = told(done.trace)
    (versions,) = {(each.value, each.device) for each in made if each.offset == 0x8}
    assert versions[0] == versions[1] ^ 0x100  # type: ignore[operator]
    notes = [each.note for each in made]
    assert "by hostile.py" in notes and "by hostile.py, 0.002 s late" in notes
    reads = [each.note for each in made if each.direction == "read"]
    late = [index for index, note in enumerate(reads) if note == "by rule 1, 0.001 s late"]
    assert late == [1, 2]
    assert read_trace(done.trace).end.outcome.endswith("LookupError: enough")


def test_python_boots_with_rules_and_adds_more(tmp_path: Path) -> None:
    class Hostile:
        on = "read nvme.VS"

        def mmio(self, access: object) -> int:
            return 0x10300

    seen: list[tuple[str | None, int | None, int | None]] = []
    with boot_guest(
        rules=["on read nvme.CAP after 1 once do give 0"], host=Hostile(), region="nvme",
        progress=lambda text: None,
    ) as guest:  # fmt: skip
        assert guest.rule("on write nvme.CC times 1 do delay 1ms") == 2
        guest.subscribe(
            lambda access: seen.append((access.register, access.value, access.device_value))
        )
        guest.until("+1.5s")
    given = [each for each in seen if each[2] is not None]
    assert ("VS", 0x10300) in [each[:2] for each in given]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--rule", "on read nvmee do give 1"], 2, "did you mean nvme?"),
        (["--rule", "on read hpet do give 1", "--region", "nvme"], 2, "hpet is not traced"),
    ],
)
def test_what_only_the_guest_tells_to_be_wrong(
    words: list[str], status: int, said: str, tmp_path: Path
) -> None:
    done = ruled(tmp_path, *words)
    assert done.status == status and said in done.err
    assert done.err.count("vetrace: --rule 1: ") == 1


PLUGIN = """
from tracer.trace import Intercept

def test_probe(vetrace_boot):
    trace = vetrace_boot(
        "--region", "nvme", host="hostile.py",
        rules=["on read nvme.CSTS once do give 0xffffffff"],
    )
    records = [each for each in trace.records() if isinstance(each, Intercept)]
    made = [access for record in records for access in record.accesses]
    assert [each.value for each in made if each.device is not None] == [0xFFFFFFFF]
"""


def test_the_plugin_boots_with_rules(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text("def mmio(access):\n    return None\n")
    (tmp_path / "test_driver.py").write_text(PLUGIN)
    words = ["-m", "pytest", "-p", "tracer.pytest_plugin", "-p", "no:cacheprovider", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
