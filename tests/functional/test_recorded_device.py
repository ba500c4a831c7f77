"""A live guest whose devices answer from a recording; the devices themselves stay untouched."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, Case, assemble, initial
from vetrace_run import Run, Trace, boot, read_trace

from tracer.check.qemu_log import entries
from tracer.trace.record import Mark, RegionRecord

pytestmark = pytest.mark.qemu

ANSWERED = ("--region", "ecam", "--region", "virtio-blk.device")
SECTORS = (0x2000, 0x1800)  # of the virtio disk: the real one, and one that no disk has


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With a stop at each access, the file has each value as text.
    folder = tmp_path_factory.mktemp("recording")
    done = boot(folder, "--quiet", "--every-stop", *ANSWERED, "--region", "nvme")
    assert done.status == 0, done.err
    return done.trace


@pytest.fixture(scope="module")
def edited(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the recording with another size of the virtio disk, as no device would tell it."""
    text = recording.read_text()
    real, other = (f'"value":"{sectors:#x}","region":"virtio-blk.device"' for sectors in SECTORS)
    assert text.count(real) == 1
    path = tmp_path_factory.mktemp("edited") / "edited.vtrace"
    path.write_text(text.replace(real, other))
    return path


@pytest.fixture(scope="module")
def replayed(edited: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("replayed")
    log = ("--qemu-log", folder / "qemu.log")
    return boot(folder, "--quiet", "--replay", edited, *ANSWERED, "--also", "nvme", *log)


def counted(trace: Trace) -> Counter[str | None]:
    return Counter(a.region for r in trace.intercepts for _, a in r.device_accesses())


def test_the_guest_gets_to_its_power_off(replayed: Run, edited: Path) -> None:
    assert replayed.status == 0, replayed.err
    assert read_trace(replayed.trace).end.outcome == "poweroff"
    count = counted(read_trace(edited))
    answered = count["ecam"] + count["virtio-blk.device"]
    assert count["ecam"] > 10 and count["virtio-blk.device"] > 5
    assert f"{answered} of {answered} accesses of {edited} replayed" in replayed.err


def test_what_the_recording_does_not_answer_takes_a_stop_once(replayed: Run) -> None:
    ways = Counter(
        (access.region, record.via)
        for record in read_trace(replayed.trace).intercepts
        for _, access in record.device_accesses()
    )
    assert ways["nvme", "compiled"] > ways["nvme", "emulated"] > 0
    for region in ("ecam", "virtio-blk.device"):
        assert ways[region, "emulated"] and not ways[region, "compiled"]


def test_the_guest_believes_the_recording(replayed: Run) -> None:
    real, other = SECTORS
    said = "\n".join(replayed.serial)
    assert re.search(rf"virtio_blk .*\[vda\] {other} 512-byte", said)
    assert not re.search(rf"virtio_blk .*\[vda\] {real} 512-byte", said)


def test_the_devices_see_nothing(replayed: Run) -> None:
    trace = read_trace(replayed.trace)
    offset = next(r.qemu_log_offset for r in trace.records if isinstance(r, Mark))
    assert offset is not None
    places = {
        r.region.name: (r.region.start, r.region.end)
        for r in trace.records
        if isinstance(r, RegionRecord)
    }
    seen: Counter[str] = Counter()
    with replayed.qemu_log.open("rb") as log:
        for entry in entries(log, offset):
            for name in ("ecam", "virtio-blk.device", "nvme"):
                first, last = places[name]
                seen[name] += first <= entry.address <= last
    assert seen["ecam"] == seen["virtio-blk.device"] == 0
    # How many completions have a doorbell each is up to the host's disk.
    assert seen["nvme"] == counted(trace)["nvme"] > 50


def test_the_new_trace_names_what_was_repeated(replayed: Run, edited: Path) -> None:
    numbers = {
        seq
        for r in read_trace(edited).intercepts
        for seq, access in r.device_accesses()
        if access.region in ("ecam", "virtio-blk.device")
    }
    notes = [
        (record.accesses[0].region, record.note) for record in read_trace(replayed.trace).intercepts
    ]
    assert all(note is None for region, note in notes if (region or "").startswith("nvme"))
    named = [re.fullmatch(r"replayed: #(\d+) of the recording", n) for _, n in notes if n]
    assert {int(found[1]) for found in named if found} == numbers
    assert len(named) == len(numbers)


def test_an_nvme_controller_gets_as_far_as_its_first_command(
    recording: Path, tmp_path: Path
) -> None:
    # The command and its completion are in RAM, and the interrupt is not in a trace at all. So the
    # driver waits, for a second here, and asks the controller what has become of it.
    patience = ("--append", "nvme_core.admin_timeout=1")
    done = boot(tmp_path, "--quiet", "--replay", recording, "--region", "nvme", *patience)
    assert done.status == 3, done.err
    assert re.search(
        rf"^vetrace: nvme diverges from access #\d+ of {re.escape(str(recording))}: recorded "
        r"W4 nvme\+0x1004 0x00000001 at nvme_\w+\+0x\w+, the guest made R4 nvme\+0x1c at "
        r"nvme_\w+\+0x\w+; record again if that is meant$",
        done.err,
        re.MULTILINE,
    )
    trace = read_trace(done.trace)
    assert trace.end.outcome.startswith("nvme diverges from access #")
    last = [a for r in trace.intercepts for _, a in r.device_accesses() if a.region == "nvme"][-1]
    assert (last.direction, last.offset, last.value) == ("write", 0x1000, 1)


def test_a_native_step_ends_the_run_before_it_reaches_the_device(tmp_path: Path) -> None:
    # The emulator does not know ADDPS, so its access would be the vCPU's own.
    first = initial(0, 4)
    known = Case("mov eax, [rdi]", [("R", 0, 4, first)], after={"rax": first})
    unknown = Case("addps xmm2, [rdi]", [("R", 0, 16, None)], via="stepped")
    guest = ("--kernel", assemble(tmp_path, [known, unknown]), "--region", REGION)
    recorded = boot(tmp_path / "recorded", "--quiet", *guest, "--", *DEVICE)
    assert recorded.status == 0, recorded.err
    assert [record.via for record in read_trace(recorded.trace).intercepts][-2:] == [
        "emulated", "stepped",
    ]  # fmt: skip
    log = tmp_path / "qemu.log"
    replay = ("--replay", recorded.trace, "--qemu-log", log)
    done = boot(tmp_path / "replayed", "--quiet", *guest, *replay, "--", *DEVICE)
    assert done.status == 1, done.err
    (complaint,) = done.complaints[-1:]
    assert "the vCPU would have to reach the device itself" in complaint
    assert f"which {recorded.trace} stands in for; --bypass its region" in complaint
    trace = read_trace(done.trace)
    assert [record.via for record in trace.intercepts][-1:] == ["emulated"]
    assert f"vetrace: {trace.end.outcome}" == complaint
    # It got as far as the recorded read; the device saw neither that nor the step.
    assert trace.intercepts[-1].text == "mov eax, dword ptr [rdi]"
    with log.open("rb") as file:
        seen = {entry.name for entry in entries(file)}
    assert seen and "nvme-cmb" not in seen
