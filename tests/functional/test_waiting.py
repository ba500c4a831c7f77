"""A driver whose device never becomes ready: what it waits for is told first, everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from guest_program import assemble, initrd
from prompt_terminal import session, told
from vetrace_run import Run, boot, read_trace, run

from tracer.trace.waiting import WaitRecord

pytestmark = pytest.mark.qemu

OFF = "on write nvme.CC if value & 1 do give 0x460060"
"""The controller is never switched on, whatever the driver writes."""

HELD = "on read nvme.CSTS if value & 1 do give 0"
"""The controller is on, and says that it is not."""


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return boot(
        tmp_path_factory.mktemp("stuck"), "--region", "nvme", "--json", "--append", "loglevel=7",
        "--rule", OFF, "--guest-timeout", "4",  # Linux 6.12 comes there at 2.9 s
    )  # fmt: skip


def test_it_is_told_first(stuck: Run) -> None:
    assert stuck.status == 1
    lines = [line for line in stuck.err.splitlines() if line.startswith("vetrace: ")]
    first = next(at for at, line in enumerate(lines) if "tracing" not in line)
    assert lines[first].startswith("vetrace: waiting for nvme CSTS until RDY=1, or it reads 0xffff")
    assert "; gives up at " in lines[first] and "(jiffies)" in lines[first]
    assert lines[first + 1].startswith("vetrace: last access: ")


def test_it_is_the_last_object(stuck: Run) -> None:
    objects = [json.loads(line) for line in stuck.out.splitlines()]
    assert [each["type"] for each in objects[:-1]] == ["access"] * (len(objects) - 1)
    last = objects[-1]
    assert (last["type"], last["region"], last["register"]) == ("waiting", "nvme", "CSTS")
    reads = [
        each for each in objects[:-1]
        if each["register"] == "CSTS" and each["seq"] > last_write(objects)
    ]  # fmt: skip
    assert last["turns"] == len(reads) > 100
    assert last["since_ns"] == reads[0]["time_ns"] and last["until_ns"] == reads[-1]["time_ns"]
    assert last["loop"].startswith("nvme_wait_ready+")
    assert {(way["mask"], way["value"]) for way in last["awaited"]} == {
        ("0x1", "0x1"), ("0xffffffff", "0xffffffff"),
    }  # fmt: skip
    # The reads go on without stops; one was looked at.
    assert [each["via"] for each in reads].count("emulated") <= 3


def last_write(objects: list[dict[str, object]]) -> int:
    return max(
        int(str(each["seq"])) for each in objects
        if each.get("direction") == "write" and each["region"] == "nvme"
    )  # fmt: skip


def test_the_trace_has_it(stuck: Run) -> None:
    (wait,) = [record for record in read_trace(stuck.trace).records
               if isinstance(record, WaitRecord)]  # fmt: skip
    assert wait.register == "CSTS" and wait.symbol is not None and wait.loop is not None
    shown = run(stuck.folder, "show", stuck.trace, "--register", "CSTS").out
    assert "── waits: nvme CSTS until RDY=1" in shown
    assert (
        "── waits" not in run(stuck.folder, "show", stuck.trace, "--region", "nvme.msix-table").out
    )
    counted = json.loads(run(stuck.folder, "stats", stuck.trace, "--json").out)
    (found,) = counted["waits"]
    assert found["register"] == "CSTS" and found["turns"] > 100
    assert "RDY=1" in run(stuck.folder, "stats", stuck.trace).out


def test_at_the_prompt_it_is_one_line_and_comes_first(tmp_path: Path) -> None:
    words = ("--region", "nvme", "--region", "hpet", "--rule", HELD)
    with session(tmp_path, *words) as talk:
        talk.line("continue")
        talk.wait_for("accesses to clocks such as hpet")
        mark = talk.mark
        talk.wait_for("waiting for nvme CSTS until RDY=1", after=mark)
        talk.control("c")
        talk.wait_for(r"waiting for nvme CSTS until RDY=1[^│]*\s+interrupted", after=mark)
        told(talk, "info waiting", "gives up at nvme_wait_ready")
        told(talk, "watch", r"accesses are shown[^;]*; [\d,]+ to clocks were not")
        told(talk, "watch clocks", "accesses are shown, 30 lines a second at most")


COMMANDS = """\
for device in /sys/bus/pci/devices/*; do
    if [ "$(cat $device/class)" = 0x010601 ]; then
        echo 1 > $device/enable
        /tmp/waits $device/resource5
    fi
done"""


def test_a_program_waits_for_memory_and_for_a_port(tmp_path: Path) -> None:
    ramdisk = initrd(tmp_path, assemble(tmp_path, "waits"), COMMANDS)
    done = boot(
        tmp_path, "--region", "ahci", "--inputs=port", "--json", "--initrd", ramdisk,
        "--guest-timeout", "7",
    )  # fmt: skip
    assert done.status == 1
    lines = [line for line in done.err.splitlines() if line.startswith("vetrace: waiting")]
    assert lines and re.match(
        r"vetrace: waiting for \S*8042\S* KBD_STATUS_CMD until bits 0x21=0x20: read [\d,]+ times",
        lines[0],
    ), done.err  # fmt: skip
    last = json.loads(done.out.splitlines()[-1])
    (way,) = last["awaited"]
    assert (way["mask"], way["value"], last["gives_up"]) == ("0x21", "0x20", [])
    waits = [each for each in read_trace(done.trace).records if isinstance(each, WaitRecord)]
    (memory,) = [each for each in waits if each.region == "ich9-ahci.ahci"]
    assert [(each.mask, each.value) for each in memory.awaited] == [(1, 1)]
    assert [each.said for each in memory.gives_up] == ["r12"]
    # The loop goes on whatever else it accesses now and then: one wait has all of its turns, but
    # for those up to a write, every eighth, that a busy machine takes in before the loop is known.
    counted = json.loads(run(tmp_path, "stats", done.trace, "--json").out)["waits"]
    (turns,) = [each["turns"] for each in counted if each["region"] == "ich9-ahci.ahci"]
    assert turns in (40, 32, 24)
