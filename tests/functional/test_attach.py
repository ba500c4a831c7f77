"""A guest at work in somebody else's QEMU: joined, traced, left, and joined again."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from guest_program import script
from qmp_person import QmpPerson
from vetrace_run import CHECKOUT, DEADLINE, Run, Running, agreed, read_trace, run, vetrace

from tracer.guest.disk import DISKS, checksum, disk_file
from tracer.guest.initramfs import build_initramfs
from tracer.linux.kernel import default_kernel, open_kernel
from tracer.trace.queue import QueueRecord
from tracer.trace.record import End, MapRecord

pytestmark = pytest.mark.qemu

WORK = """\
while read -r module; do insmod "/lib/modules/$module"; done < /lib/modules/order
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
until [ -b /dev/nvme0n1 ]; do sleep 0.1; done
count=0
while true; do
    count=$((count + 1))
    disk=$(dd if=/dev/nvme0n1 bs=64k iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1)
    net=$(ping -c 1 -W 60 10.0.2.2 | grep -c 'bytes from')
    bad=$(dmesg | grep -cE 'WARNING|BUG:|Oops|stall|lockup|Call Trace')
    echo "round $count disk $disk net $net bad $bad"
done"""
"""Each round reads a whole disk by DMA, past the page cache, and sends a packet out."""


@dataclass(frozen=True)
class Machine:
    """QEMU and its guest are given these."""

    words: tuple[str, ...]
    append: str
    ram: tuple[str, ...] = ()
    named: bool = False  # the kernel's file is given


MACHINES = {
    "plain": Machine((), "nokaslr pti=off", named=True),
    "kaslr-pti-smp": Machine(
        ("-smp", "4"),
        "pti=on",
        ("-object", "memory-backend-memfd,id=ram,size=512M,share=on",
         "-machine", "memory-backend=ram"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Guest:
    """A guest at work, and its QEMU."""

    process: subprocess.Popen[str]
    monitor: Path
    serial: Path
    named: bool

    def rounds(self) -> list[str]:
        text = self.serial.read_text(errors="replace") if self.serial.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.startswith("round ")
                and line.endswith("\n")]  # fmt: skip

    def works(self, more: int = 2) -> None:
        """Wait until it has done so much more, and hold it to what it has to be."""
        deadline, before = time.monotonic() + DEADLINE, len(self.rounds())
        while len(self.rounds()) < before + more:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, self.serial.read_text(errors="replace")[-2000:]
            time.sleep(0.05)
        for number, line in enumerate(self.rounds(), 1):
            assert line.split() == (
                f"round {number} disk {checksum('nvme')} net 1 bad 0".split()
            ), self.serial.read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def working(folder: Path, machine: Machine) -> Iterator[Guest]:
    image = default_kernel()
    assert image is not None and "nvme" in DISKS
    init = folder / "init"
    init.write_text(script(WORK))
    ramdisk = build_initramfs(init, open_kernel(image).modules)
    monitor, serial = folder / "qmp", folder / "serial"
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "q35,accel=tcg", "-cpu", "max,la57=off", "-m", "512M", *machine.ram,
        "-drive", f"if=none,id=disk,format=raw,snapshot=on,file={disk_file('nvme')}",
        "-device", "nvme,id=nvme,serial=vetrace,drive=disk,ioeventfd=off",
        "-netdev", "user,id=network,restrict=on",
        "-device", "virtio-net-pci,id=virtio-net,netdev=network,romfile=,ioeventfd=off",
        "-kernel", str(image), "-initrd", str(ramdisk),
        "-append", f"console=ttyS0 quiet panic=-1 {machine.append}",
        "-serial", f"file:{serial}", "-qmp", "unix:qmp,server=on,wait=off",
        "-qmp-pretty", "unix:second.qmp,server=on,wait=off", *machine.words,
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        try:
            yield Guest(process, monitor, serial, machine.named)
        finally:
            process.kill()


def attach(folder: Path, guest: Guest, *words: str | Path) -> Run:
    folder.mkdir()
    kernel = default_kernel()
    assert kernel is not None
    named = ("--kernel", kernel) if guest.named else ()
    return run(
        folder, "attach", "--qmp", guest.monitor, *named, "-o", folder / "trace.vtrace", *words
    )


@contextlib.contextmanager
def tracing(
    folder: Path, guest: Guest, *words: str | Path, may_leave: bool = False
) -> Iterator[Running]:
    """Trace a guest in the background, from where there is a lot in the trace in the folder."""
    trace = folder / "trace.vtrace"
    with vetrace(
        folder, "attach", "--qmp", guest.monitor, "-o", trace, "--quiet", *words,
        may_leave=may_leave,
    ) as running:  # fmt: skip
        running.until(lambda: trace.exists() and trace.stat().st_size > 100_000, "tracing")
        yield running


@pytest.mark.parametrize("name", ["plain", pytest.param("kaslr-pti-smp", marks=pytest.mark.long)])
def test_a_guest_at_work_is_joined_and_left_and_notices_nothing(name: str, tmp_path: Path) -> None:
    with working(tmp_path, MACHINES[name]) as guest:
        guest.works()
        # Until it has sent a few packets, whatever time that takes: disks are read between them.
        sent = "tbreak write virtio-net.notify if count == 6; continue; detach"
        first = attach(tmp_path / "first", guest, "--check", "--queues", "--quiet", "-e", sent)
        assert agreed(first) > 0, first.err
        guest.works()
        trace = read_trace(first.trace)
        assert trace.end.outcome == "detached"
        assert {"emulated", "compiled"} <= {record.via for record in trace.intercepts}
        assert any("nvme" in record.site for record in trace.intercepts)
        assert any(isinstance(record, MapRecord) for record in trace.records)
        assert "compiled at" in first.err, first.err
        # Queues that were set up long before.
        told = [record for record in trace.records if isinstance(record, QueueRecord)]
        kinds = {(record.region, record.queue) for record in told}
        assert {("nvme", "SQ"), ("nvme", "CQ"), ("virtio-net.notify", "VQ")} <= kinds
        assert not any("not seen" in (record.note or "") for record in told)
        commands = [entry for record in told if record.queue == "SQ" for entry in record.entries]
        assert commands and {entry.fields["OPC"] for entry in commands} == {2}

        # By a stop each, from the prompt, with another answer for one read; found by its process.
        folder = tmp_path / "second"
        folder.mkdir()
        second = run(
            folder, "attach", "--pid", str(guest.process.pid), "--every-stop", "--check",
            "--region", "nvme", "-e", "break nvme; continue; plan; continue; continue; detach",
        )  # fmt: skip
        assert agreed(second) >= 2, second.err
        assert "nvme_queue_rq" in second.out and "the guest runs on without vetrace" in second.out
        guest.works()

        # A signal leaves it in order, too.
        third = tmp_path / "third"
        with tracing(third, guest) as running:
            # Another one, by the other monitor, takes nothing from it.
            assert "another vetrace traces the guest" in refused(
                tmp_path, "--qmp", tmp_path / "second.qmp"
            )
            running.process.terminate()
            ended = running.finish()
        assert ended.status == 143 and "interrupted by SIGTERM" in ended.err
        (end,) = [record for record in read_trace(third / "trace.vtrace").records
                  if isinstance(record, End)]  # fmt: skip
        assert end.outcome == "interrupted"
        guest.works()
        assert not list((third / "tmp").iterdir())

        # So does one that nothing can be done about: the guest is left by who has waited for that.
        with tracing(tmp_path / "fourth", guest, "--check", may_leave=True) as running:
            running.process.kill()
            ended = running.finish()  # its standard error is the guardian's too
            assert "the guest goes on without it" in ended.err, ended.err
            assert not [line for line in running.residue() if line.startswith("process")]
        guest.works()
        last = attach(tmp_path / "last", guest, "--check", "--quiet", "--for", "4")
        assert agreed(last) > 0, last.err
        guest.works()


DIES = """\
import importlib, os, signal, sys
from tracer.cli.main import main

module, _, name = sys.argv.pop(1).partition(":")
owner, number = importlib.import_module(module), int(sys.argv.pop(1))
*path, name = name.split(".")
for each in path:
    owner = getattr(owner, each)
real, calls, process = getattr(owner, name), [], os.getpid()

def dying(*words, **more):
    done = real(*words, **more)
    calls.append(1)
    if len(calls) == number and os.getpid() == process:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

setattr(owner, name, dying)
sys.exit(main())
"""
"""The command, which is killed behind the call of a function of it that has this number."""
MOMENTS = [
    ("tracer.qemu.foreign_ram:ForeignMemory.write", 1),
    ("tracer.intercept.entry.gate:PageFaultGate._write", 1),
    ("tracer.intercept.ring.sites:CompiledSites.begin", 1),
    ("tracer.intercept.poison:set_poison", 1),
    ("tracer.intercept.poison:set_poison", 20),
]


@pytest.mark.long
def test_one_that_is_killed_while_it_places_its_traps_leaves_a_guest_as_it_was(
    tmp_path: Path,
) -> None:
    with working(tmp_path, MACHINES["plain"]) as guest:
        guest.works(1)
        for number, moment in enumerate(MOMENTS):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "dies.py").write_text(DIES)
            with vetrace(
                folder, *map(str, moment), "attach", "--qmp", guest.monitor, "--check", "--quiet",
                may_leave=True, program=[folder / "dies.py"],
                environment={"PYTHONPATH": str(CHECKOUT)},
            ) as running:  # fmt: skip
                ended = running.finish()
                assert ended.status == -signal.SIGKILL, ended.err
                assert "the guest goes on without it" in ended.err, (moment, ended.err)
            guest.works(1)
        last = attach(tmp_path / "last", guest, "--check", "--quiet", "--for", "4")
        assert agreed(last) > 0, last.err
        guest.works(1)


def without_rights() -> None:
    """Take from what this process starts the right to look into others that have more rights.

    Ref: linux/prctl.h (PR_CAPBSET_DROP), linux/capability.h (CAP_CHOWN, CAP_SYS_PTRACE).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert all(libc.prctl(24, right, 0, 0, 0) == 0 for right in (0, 19))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
@pytest.mark.long
def test_ram_that_cannot_be_opened_is_reached_by_packets(tmp_path: Path) -> None:
    with working(tmp_path, MACHINES["plain"]) as guest:
        guest.works()
        folder = tmp_path / "distant"
        folder.mkdir()
        kernel = default_kernel()
        assert kernel is not None
        with vetrace(
            folder, "attach", "--qmp", guest.monitor, "--kernel", kernel, "--check", "--quiet",
            "--region", "nvme", "--for", "20", "-o", folder / "trace.vtrace",
            prepare=without_rights,
        ) as running:  # fmt: skip
            done = running.finish()
        assert agreed(done) > 2, done.err
        assert "it is reached by packets, which is slow" in done.err
        assert "each access takes a stop: RAM that is reached by packets" in done.err
        assert {record.via for record in read_trace(done.trace).intercepts} == {"emulated"}
        guest.works()


@contextlib.contextmanager
def idle(folder: Path, *words: str, program: str = "qemu-system-x86_64") -> Iterator[Path]:
    """A QEMU that stands before its first instruction."""
    monitor = folder / "idle"
    monitor.unlink(missing_ok=True)
    command = [program, "-nodefaults", "-display", "none", "-S", *words,
               "-qmp", f"unix:{monitor},server=on,wait=off"]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + DEADLINE
            while not monitor.exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            yield monitor
        finally:
            process.kill()


def refused(folder: Path, *words: str | Path) -> str:
    done = run(folder, "attach", *words)
    assert done.status in (1, 2) and done.out == ""
    *progress, line = done.err.splitlines()
    assert progress in ([], ["vetrace: reading the kernel out of the guest's RAM"])
    return line


def test_what_cannot_be_joined_is_told_in_one_line(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path, "--qmp", tmp_path / "none")
    assert "there is no process 4194999" in refused(tmp_path, "--pid", "4194999")
    assert "give the number of a process" in refused(tmp_path, "--pid", "qemu")
    assert "it is no QEMU, or cannot be joined" in refused(tmp_path, "--pid", str(os.getpid()))
    file = tmp_path / "file"
    file.touch()
    assert "Connection refused: it is no socket" in refused(tmp_path, "--qmp", file)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    assert "its QEMU has ended" in refused(tmp_path, "--qmp", tmp_path / "left")

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()

        def answer() -> None:
            client, _ = other.accept()
            client.sendall(b"220 mail.example.org ESMTP\r\n")
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        line = refused(tmp_path, "--qmp", tmp_path / "other")
        assert "no QEMU's monitor" in line and "mail" not in line
        thread.join()

    with idle(tmp_path, "-accel", "tcg") as monitor:
        assert "does not run (prelaunch)" in refused(tmp_path, "--qmp", monitor)
        with socket.socket(socket.AF_UNIX) as holder:
            holder.connect(str(monitor))
            holder.recv(4096)
            assert "another client holds that monitor" in refused(tmp_path, "--qmp", monitor)


def test_another_machine_than_can_be_traced_is_told(tmp_path: Path) -> None:
    with idle(tmp_path, "-accel", "tcg", program="qemu-system-i386") as monitor:
        assert "is for i386, not for x86-64" in refused(tmp_path, "--qmp", monitor)
    with idle(tmp_path, "-accel", "tcg", "-cpu", "qemu32") as monitor:
        assert "CPU has no 64-bit mode" in refused(tmp_path, "--qmp", monitor)
    if os.access("/dev/kvm", os.W_OK):
        with idle(tmp_path, "-accel", "kvm") as monitor:
            assert "KVM runs the guest" in refused(tmp_path, "--qmp", monitor)

    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            words = "--pid", str(process.pid)
            assert "has no monitor for programs at a socket" in refused(tmp_path, *words)
        finally:
            process.kill()


def test_a_guest_without_a_kernel_is_refused_and_runs_on(tmp_path: Path) -> None:
    with idle(tmp_path, "-accel", "tcg") as monitor:
        talk(monitor, "cont")
        assert "no vCPU of the guest is in 64-bit mode" in refused(tmp_path, "--qmp", monitor)
        assert talk(monitor, "query-status")["status"] == "running"
        talk(
            monitor, "human-monitor-command", **{"command-line": "gdbserver unix:gdb,server,nowait"}
        )
        assert "another debugger has" in refused(tmp_path, "--qmp", monitor)


@pytest.mark.long
def test_a_guest_whose_stub_another_debugger_takes_goes_on_as_it_was(tmp_path: Path) -> None:
    with working(tmp_path, MACHINES["plain"]) as guest:
        guest.works()
        with tracing(tmp_path / "first", guest) as running:
            type_at(tmp_path / "second.qmp", "gdbserver unix:other,server,nowait")
            done = running.finish()
        assert done.status == 1 and "somebody has typed `gdbserver`" in done.err
        assert "could not be left" not in done.err
        guest.works()
        again = attach(tmp_path / "again", guest, "--check", "--quiet", "--for", "4")
        assert agreed(again) > 0, again.err
        guest.works()


def test_a_guest_that_is_reset_goes_on_by_itself(tmp_path: Path) -> None:
    with working(tmp_path, MACHINES["plain"]) as guest:
        guest.works()
        folder = tmp_path / "first"
        with tracing(folder, guest, "--check") as running:
            type_at(tmp_path / "second.qmp", "system_reset")
            done = running.finish()
        assert agreed(done) > 0, done.err
        assert "the machine was reset, and goes on without vetrace" in done.err
        assert read_trace(folder / "trace.vtrace").end.outcome == "host-qmp-system-reset"
        anew, deadline = len(guest.rounds()), time.monotonic() + DEADLINE
        while "round 3 " not in "".join(guest.rounds()[anew:]):
            assert time.monotonic() < deadline, guest.serial.read_text(errors="replace")[-2000:]
            time.sleep(0.05)
        assert all(line.endswith("net 1 bad 0\n") for line in guest.rounds())


def type_at(monitor: Path, line: str) -> None:
    """Have a monitor whose answers take several lines each carry out a line of a person's."""
    words = {"execute": "human-monitor-command", "arguments": {"command-line": line}}
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(monitor))
        for asked in ({"execute": "qmp_capabilities"}, words):
            channel.sendall(json.dumps(asked).encode())
            said = b""
            while b'"return"' not in said:
                said += channel.recv(1 << 16)


def talk(monitor: Path, command: str, **arguments: str) -> dict[str, str]:
    with QmpPerson(monitor) as person:
        found = person.execute(command, arguments)
        return found if isinstance(found, dict) else {}
