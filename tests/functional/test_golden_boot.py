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

from tracer.pytest_plugin import Open

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
