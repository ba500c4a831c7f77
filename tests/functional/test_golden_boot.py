"""The default guest, held to the golden traces of its kernel's series.

Each golden is in a folder named after the release it was recorded from, and any release of Debian's
cloud kernel of the same series must match one of them. So a release has goldens of its own only
where it does something else: 6.1.0-56 resets its virtio devices at shutdown, 6.1.0-50 does not.

After a change that is meant, or for a release that does something else again: `pytest
tests/functional/test_golden_boot.py --vetrace-record`, and the review sees what is new.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vetrace_run import Run

from tracer.check.diff import Differ, Line, Rules, Side, compare
from tracer.devices import library
from tracer.pytest_plugin import Open
from tracer.query.sieve import Sieve
from tracer.query.words import choose
from tracer.trace.event import Events
from tracer.trace.reader import TraceReader

pytestmark = pytest.mark.qemu

GOLDEN = Path(__file__).parents[1] / "golden"

# The LAPIC is the guest's timer, and how often a virtio driver rings its doorbell depends on when
# the host's disk has answered: neither has a golden.
REGIONS = ("ecam", "hpet", "ioapic", "nvme", "virtio-blk.common", "virtio-net.common")

# The low byte of an IOAPIC entry is the vector. Drivers that probe side by side get theirs in the
# order in which the host's disk lets them go on.
VECTOR = "ioapic+0x10"

# A driver rings a completion queue once for all that it finds there, which depends on the host's
# disk as well.
COMPLETIONS = ("nvme+0x1004", "nvme+0x100c")

# And the queue of requests for all that it has put there, which depends on how far it has got.
REQUESTS = ("nvme+0x1008",)


# The HPET is polled as often as a millisecond lets, which a stop at each access does not bend by
# chance.
WAYS = [(region, "stopped") for region in REGIONS]
WAYS += [(region, "traced") for region in REGIONS if region != "hpet"]


@pytest.mark.parametrize(("region", "way"), WAYS)
def test_the_default_guest_does_as_it_did(
    region: str,
    way: str,
    request: pytest.FixtureRequest,
    vetrace_trace: Open,
    pytestconfig: pytest.Config,
) -> None:
    done: Run = request.getfixturevalue(way)
    assert done.status == 0, done.err
    trace = vetrace_trace(done.trace)
    series = re.match(r"\d+\.\d+\.", trace.kernel)
    known = sorted(GOLDEN.glob(f"{series[0] if series else ''}*-cloud-amd64/{region}.vtrace.zst"))
    record = pytestconfig.getoption("--vetrace-record")
    if not record and not (known and trace.kernel.endswith("-cloud-amd64")):
        pytest.skip(f"no goldens of {trace.kernel}: make them with pytest --vetrace-record")
    trace.assert_matches_trace(
        GOLDEN / trace.kernel / f"{region}.vtrace.zst",
        region=region,
        mask=[VECTOR],
        ignore=COMPLETIONS if way == "stopped" else (*COMPLETIONS, *REQUESTS),
        alternatives=known,
    )


def of_the_ioapic(path: Path, differ: Differ) -> Side:
    events = Events(Sieve(choose(region="ioapic"), library.load()))
    with TraceReader(path) as trace:
        told = differ.read(event for record in trace for event in events.add(record))
    return told["ioapic"]


def is_vector(line: Line) -> bool:
    """Tell whether what differs is the vector of an entry: the low byte of its lower half."""
    first, second = line.first, line.second
    if first is None or second is None or first.value is None or second.value is None:
        return False
    names = [step.named.text if step.named else "" for step in (first, second)]
    entry = re.fullmatch(r"REDTBL\[\d+\]\.LOW", names[0]) is not None
    return entry and names[0] == names[1] and first.value ^ second.value < 0x100


@pytest.mark.parametrize("way", ["stopped", "traced"])
def test_of_all_that_the_ioapic_is_told_vectors_alone_vary(
    way: str, request: pytest.FixtureRequest, vetrace_trace: Open
) -> None:
    done: Run = request.getfixturevalue(way)
    golden = GOLDEN / vetrace_trace(done.trace).kernel / "ioapic.vtrace.zst"
    if not golden.exists():
        pytest.skip(f"there is no {golden}")
    differ = Differ(Rules())
    result = compare("ioapic", of_the_ioapic(golden, differ), of_the_ioapic(done.trace, differ))
    differing = [line for hunk in result.hunks for line in hunk if line.kind != "same"]
    assert [line for line in differing if not is_vector(line)] == [] and result.same > 100
