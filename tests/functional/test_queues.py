"""Doorbells in a real guest, held to what QEMU's devices say that they were told."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest

from tracer.api import boot
from tracer.cli import main
from tracer.trace.queue import QueueRecord, queue_object
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept

pytestmark = pytest.mark.qemu

EVENTS = (
    "pci_nvme_admin_cmd",
    "pci_nvme_io_cmd",
    "virtio_queue_notify",
    "virtqueue_pop",
    "virtqueue_fill",
)
COMMAND = re.compile(r"pci_nvme_(admin|io)_cmd cid (\d+) .*sqid (\d+) opc 0x([0-9a-f]+)")
CHECKED = 3


# What QEMU's devices tell of a virtqueue, which is known by where its state lies in QEMU.
BELL = re.compile(r"virtio_queue_notify vdev (\S+) n (\d+) vq (\S+)")
TAKEN = re.compile(r"virtqueue_pop vq (\S+) elem \S+ in_num (\d+) out_num (\d+)")
FILLED = re.compile(r"virtqueue_fill vq (\S+) elem \S+ len (\d+)")
PACKED = "virtio-net"


class Witness:
    """QEMU's own account of a virtqueue, by a second monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            told = json.loads(self._file.readline())
            if "return" in told or "error" in told:
                return told.get("return", told)

    def device(self, name: str) -> str:
        return next(each["path"] for each in self.ask("x-query-virtio") if name in each["name"])


def test_queues_are_what_the_devices_were_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, log, monitor = tmp_path / "q.vtrace", tmp_path / "qemu.log", tmp_path / "qmp"
    extra = [word for event in EVENTS for word in ("-trace", event)]
    checked = 0
    with boot(
        region=["nvme", "virtio-blk.msix-table", "virtio-blk.common", "virtio-blk.notify",
                f"{PACKED}.common", f"{PACKED}.notify", f"{PACKED}.isr"],
        queues=True, inputs="irq", output=trace, qemu_log=log,
        progress=lambda line: None,
        qemu_args=[*extra, "-qmp", f"unix:{monitor},server=on,wait=off",
                   "-set", f"device.{PACKED}.packed=on", "-set", f"device.{PACKED}.vectors=0"],
    ) as guest:  # fmt: skip
        witness = Witness(monitor)
        path = ""
        for access in guest.at("write virtio-blk.notify"):
            path = path or witness.device("virtio-blk")
            plan = guest.run("plan")
            assert isinstance(plan, dict)
            queue = plan["queue"]
            assert queue["number"] == access.value and queue["note"] is None
            held_to_qemu(queue, witness, path)
            checked += 1
            if checked == CHECKED:
                break
        guest.finish()
        assert guest.outcome == "poweroff"
    assert checked == CHECKED

    with TraceReader(trace) as reader:
        # By a pin no table tells who interrupts: the driver reads that of its device.
        all_told, causes = [], {}
        for record in reader:
            if isinstance(record, QueueRecord):
                all_told.append(record)
            elif isinstance(record, Intercept):
                for seq, access in record.device_accesses():
                    if access.space == "irq":
                        causes[seq] = record.cause or ""
                    elif access.region == f"{PACKED}.isr":
                        causes[seq] = f"{PACKED}[ISR]"
    all_told.sort(key=lambda record: record.seq)
    told = [record for record in all_told if record.seq not in causes]
    interrupts = [record for record in all_told if record.seq in causes]
    # An interrupt tells of its device alone; the driver's doorbells of NVMe repeat that.
    assert {(record.region, record.queue) for record in interrupts} == {
        ("nvme", "ADMIN-CQ"), ("nvme", "CQ"), ("virtio-blk.notify", "VQ"),
        (f"{PACKED}.notify", "VQ"),
    }  # fmt: skip
    for record in interrupts:
        assert causes[record.seq].startswith(f"{record.region.partition('.')[0]}[")
        assert record.entries and not record.note
    finished = [completed(records) for records in (interrupts, told)]
    assert set(finished[0]) == set(finished[1])
    for number, commands in finished[0].items():
        assert commands[: len(finished[1][number])] == finished[1][number][: len(commands)]
    assert {record.region for record in told} == {
        "nvme", "virtio-blk.notify", f"{PACKED}.notify",
    }  # fmt: skip
    # The recording tells at each doorbell what the guest had told.
    some = told[:: len(told) // 5]
    capsys.readouterr()
    words = "; ".join(f"goto {record.seq}; plan" for record in (*some, interrupts[1]))
    assert main.main(["open", str(trace), "--json", "-e", words]) == 0
    plans = [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()][1::2]
    (*doorbells, interrupt) = plans
    assert [plan["queue"] for plan in doorbells] == [queue_object(record) for record in some]
    assert queue_object(interrupts[1]) in interrupt["done"]
    # A network's first doorbell is about more buffers than are told.
    more = f"{PACKED}.notify", 0
    assert not any(record.late for record in told)
    assert not any(record.note for record in told if (record.region, record.number) != more)
    made = [
        (record.number, entry.fields["CID"], entry.fields["OPC"])
        for record in told if record.queue in ("ADMIN-SQ", "SQ") for entry in record.entries
    ]  # fmt: skip
    seen = [
        (int(sqid), int(cid), int(opcode, 16))
        for _, cid, sqid, opcode in COMMAND.findall(log.read_text(errors="replace"))
    ]
    # Firmware has read from the disk before.
    assert made == seen[len(seen) - len(made) :] and {number for number, _, _ in made} > {0}
    # Each completion is of a command that was told.
    done = {
        (entry.fields["SQID"], entry.fields["CID"])
        for record in told if record.queue in ("ADMIN-CQ", "CQ") for entry in record.entries
    }  # fmt: skip
    assert done and done <= {(number, cid) for number, cid, _ in made}

    for region in ("virtio-blk.notify", f"{PACKED}.notify"):
        held_to_the_log(
            [record for record in all_told if record.region == region],
            log.read_text(errors="replace"),
            causes,
        )


def completed(records: list[QueueRecord]) -> dict[int, list[tuple[int, int]]]:
    """Return the commands that completion queues say are done, by the queue's number."""
    found: dict[int, list[tuple[int, int]]] = {}
    for record in records:
        if record.queue in ("ADMIN-CQ", "CQ"):
            found.setdefault(record.number, []).extend(
                (entry.fields["SQID"], entry.fields["CID"]) for entry in record.entries
            )
    return found


LEGACY = ("-set", "device.virtio-blk.disable-modern=on",
          "-set", "device.virtio-blk.disable-legacy=off",
          "-set", "device.virtio-blk.vectors=0")  # fmt: skip
ISR = 0x13, 0x60
"""Offsets of what the drivers of both read as their device has interrupted."""
OLD_MMIO = ("-global", "virtio-mmio.force-legacy=on")
PACKED_MMIO = ("-set", "device.virtio-blk.packed=on")


@pytest.mark.parametrize(
    ("region", "machine", "words"),
    [
        ("virtio-blk.virtio-pci", None, LEGACY),
        pytest.param("virtio-mmio#24", "microvm", OLD_MMIO, marks=pytest.mark.long),
        pytest.param("virtio-mmio#24", "microvm", PACKED_MMIO, marks=pytest.mark.long),
    ],
)
def test_queues_of_other_transports(
    tmp_path: Path, region: str, machine: str | None, words: tuple[str, ...]
) -> None:
    trace, log = tmp_path / "q.vtrace", tmp_path / "qemu.log"
    extra = [word for event in EVENTS[2:] for word in ("-trace", event)]
    with boot(
        machine=machine, inputs="" if machine else "port", queues=True,
        region=region if machine else "nvme.msix-table",  # ports are recorded anyway
        output=trace, qemu_log=log, progress=lambda line: None, qemu_args=[*extra, *words],
    ) as guest:  # fmt: skip
        guest.finish()
        assert guest.outcome == "poweroff"
    told, reads = list[QueueRecord](), set[int]()
    with TraceReader(trace) as reader:
        for record in reader:
            if isinstance(record, QueueRecord):
                told.append(record)
            elif isinstance(record, Intercept):
                reads |= {seq for seq, access in record.device_accesses() if access.region == region
                          and access.offset in ISR and access.direction == "read"}  # fmt: skip
    told.sort(key=lambda record: record.seq)
    assert {record.region for record in told} == {region} and not any(each.note for each in told)
    assert {record.late for record in told if record.seq not in reads} == {False}
    done = [record for record in told if record.seq in reads]
    assert done and all(entry.kind == "used" for record in done for entry in record.entries)
    held_to_the_log(told, log.read_text(errors="replace"), reads)


def held_to_the_log(told: list[QueueRecord], log: str, interrupts: Container[int] = ()) -> None:
    """Compare a device's chains, in their order, with what its model took and gave back.

    The last of them are those: firmware may have used the device before. ``interrupts`` has the
    numbers of accesses that rang no doorbell.
    """
    bells = [(int(number), device, queue) for device, number, queue in BELL.findall(log)]
    rung = [record.number for record in told if record.seq not in interrupts]
    devices = {device for _, device, _ in bells}
    (device,) = [
        each for each in devices
        if [number for number, its, _ in bells if its == each][-len(rung):] == rung
    ]  # fmt: skip
    for number in set(rung):
        queue = next(queue for its, of, queue in bells if (its, of) == (number, device))
        taken = [(int(ins), int(outs)) for vq, ins, outs in TAKEN.findall(log) if vq == queue]
        filled = [int(length) for vq, length in FILLED.findall(log) if vq == queue]
        chains: list[list[int]] = []
        done = []
        for record in told:
            if record.number != number:
                continue
            before = None
            for entry in record.entries:
                if entry.kind == "used":
                    done.append(entry.fields["len"])
                    continue
                if entry.kind == "descriptor" and entry.chain != before:
                    chains.append([0, 0])
                before = entry.chain
                if not entry.fields["flags"] & 4:
                    chains[-1][not entry.fields["flags"] & 2] += 1
        made = [(ins, outs) for ins, outs in chains]
        # Of a ring for what comes in, most is never taken.
        assert made[: len(taken)] == taken[-len(made) :] and made
        assert done == filled[len(filled) - len(taken[-len(made) :]) :][: len(done)]


def held_to_qemu(queue: dict[str, Any], witness: Witness, path: str) -> None:
    """Compare the chains of a queue with what QEMU would take from it."""
    status = witness.ask("x-query-virtio-queue-status", path=path, queue=queue["number"])
    heads: dict[int, list[dict[str, Any]]] = {}
    for entry in queue["entries"]:
        if entry["chain"] is not None:
            heads.setdefault(entry["chain"], []).append(entry)
    assert heads
    for at, entries in enumerate(heads.values()):
        found = witness.ask(
            "x-query-virtio-queue-element", path=path, queue=queue["number"],
            index=(status["last-avail-idx"] + at) % status["vring-num"],
        )  # fmt: skip
        buffers = [each for each in entries if not int(each["fields"]["flags"], 16) & 4]
        # QEMU puts each in front of those before it.
        seen = [(each["addr"], each["len"]) for each in reversed(found["descs"])]
        assert [
            (int(each["fields"]["addr"], 16), int(each["fields"]["len"], 16)) for each in buffers
        ] == seen
