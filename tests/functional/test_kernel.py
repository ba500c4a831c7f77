"""The guest recipe and the kernel's symbols, against a real guest and what it says of itself."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from vetrace_run import DEADLINE

from tracer.access.symbols import serialise
from tracer.errors import KernelImageError
from tracer.guest.disk import DISKS, checksum
from tracer.guest.initramfs import build_initramfs, find_busybox
from tracer.guest.recipe import command_line, init_script, machine_arguments
from tracer.linux.bzimage import unpack
from tracer.linux.kernel import Kernel, default_kernel, open_kernel, read_symbols
from tracer.linux.modules import loaded_modules, module_layout

pytestmark = pytest.mark.qemu

# Stands in for qemu/init: prints what the kernel knows of itself, then waits to be looked at.
OWN_INIT = """\
#!/bin/sh
/bin/busybox mkdir -p /proc
/bin/busybox --install -s /bin
mount -t proc proc /proc
while read -r module; do insmod "/lib/modules/$module"; done < /lib/modules/order
echo "kernel-hash $(grep -v '\\[' /proc/kallsyms | cut -d ' ' -f 1,3 | sort | sha256sum)"
sed 's/^/module /' /proc/modules
grep '\\[virtio_net\\]' /proc/kallsyms | sed 's/^/symbol /'
echo looked-at
while :; do sleep 1000; done
"""


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    image = default_kernel()
    assert image is not None, "no guest kernel: run scripts/setup"
    return open_kernel(image)


def qemu(kernel: Kernel, initrd: Path, *more: str) -> list[str]:
    program = shutil.which("qemu-system-x86_64")
    assert program is not None, "qemu-system-x86_64 is missing: run scripts/setup"
    return [
        program, *machine_arguments(), "-kernel", str(kernel.path), "-initrd", str(initrd),
        "-append", command_line(), "-serial", "stdio", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("clock", [("-icount", "shift=1,sleep=off"), ("-smp", "2")])
def test_guest_reads_its_disks_and_powers_off(kernel: Kernel, clock: tuple[str, ...]) -> None:
    command = qemu(kernel, build_initramfs(init_script(), kernel.modules), *clock)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )
    said = re.findall(r"^vetrace-guest: (.*?)\r?$", done.stdout, re.MULTILINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert said[0] == f"kernel {kernel.release}"
    for name in DISKS:
        assert f"disk {name} {checksum(name)}" in said
    assert "module virtio_net" in said
    assert any(re.fullmatch(r"network \w+ [0-9a-f:]{17} reachable", line) for line in said)
    assert said[-1] == "done"
    assert "reboot: Power down" in done.stdout


def test_guest_without_modules_copes(kernel: Kernel) -> None:
    command = qemu(kernel, build_initramfs(init_script(), None), "-icount", "shift=1,sleep=off")
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )
    said = re.findall(r"^vetrace-guest: (.*?)\r?$", done.stdout, re.MULTILINE)
    assert f"disk nvme {checksum('nvme')}" in said
    assert "disk virtio-blk none" in said
    assert "network none" in said
    assert said[-1] == "done"


class Guest:
    """A running guest whose console can be waited for and whose memory can be read."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.folder = folder
        monitor = folder / "qmp"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(monitor))
            listener.listen()
            listener.settimeout(DEADLINE)
            self.process = subprocess.Popen(
                [*command, "-qmp", f"unix:{monitor}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.monitor = listener.accept()[0].makefile("rw")
        self.monitor.readline()
        self.execute("qmp_capabilities")

    def console_until(self, last: str) -> list[str]:
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            if line.rstrip() == last:
                return lines
            lines.append(line.rstrip())
        raise AssertionError("the guest ended early:\n" + "\n".join(lines[-20:]))

    def execute(self, command: str, **arguments: object) -> object:
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}))
        self.monitor.flush()
        for line in self.monitor:
            answer = json.loads(line)
            if "event" not in answer:
                if "error" in answer:
                    raise LookupError(answer["error"]["desc"])
                return answer["return"]
        raise AssertionError("QEMU is gone")

    def read(self, linear: int, size: int) -> bytes:
        file = self.folder / "memory"
        # QMP integers are signed.
        self.execute("memsave", val=linear - (linear >> 63 << 64), size=size, filename=str(file))
        return file.read_bytes()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.monitor.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def guest(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("guest")
    init = folder / "init"
    init.write_text(OWN_INIT)
    initrd = build_initramfs(init, kernel.modules)
    guest = Guest(qemu(kernel, initrd, "-icount", "shift=1,sleep=off"), folder)
    yield guest
    guest.close()


def test_symbols_are_those_of_the_running_kernel(kernel: Kernel, guest: Guest) -> None:
    console = guest.console_until("looked-at")
    guest.execute("stop")

    # Every symbol of the kernel, by the kernel's own account.
    ours = sorted(f"{s.address:016x} {s.name}\n" for s in kernel.symbols.symbols)
    digest = hashlib.sha256("".join(ours).encode()).hexdigest()
    assert f"kernel-hash {digest}  -" in console

    # Every module and every symbol of one of them.
    types = kernel.types()
    head = kernel.symbols.address_of("modules")
    assert types is not None and head is not None
    modules = loaded_modules(guest.read, module_layout(types), head)
    expected = [line.split() for line in console if line.startswith("module ")]
    assert [(m.name, m.base) for m in modules] == [(w[1], int(w[6], 16)) for w in expected]
    assert "virtio_net" in {m.name for m in modules}

    virtio_net = next(m for m in modules if m.name == "virtio_net")
    found = {(s.address, s.name) for table in virtio_net.symbols for s in table.symbols}
    told = [line.split() for line in console if line.startswith("symbol ")]
    # The listing has the assembler's own labels as well; no address is ever named after them.
    assert found == {(int(w[1], 16), w[3]) for w in told if not w[3].startswith(".L")}
    assert len(found) > 50


def test_second_opening_takes_everything_from_the_cache(kernel: Kernel) -> None:
    said: list[str] = []
    again = open_kernel(kernel.path, progress=said.append)
    assert said == []
    assert again == kernel


def test_symbols_from_a_file_are_the_same(kernel: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "System.map"
    file.write_text(serialise(kernel.symbols))
    assert open_kernel(kernel.path, file).symbols == kernel.symbols
    assert read_symbols(file) == kernel.symbols


def test_symbols_of_another_kernel_are_refused(kernel: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "System.map"
    file.write_text(
        "".join(f"{s.address + 0x1000:016x} {s.kind} {s.name}\n" for s in kernel.symbols.symbols)
    )
    with pytest.raises(KernelImageError, match=r"System\.map: symbols of another kernel"):
        open_kernel(kernel.path, file)


def test_damaged_cache_is_made_again(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VETRACE_CACHE", str(tmp_path))
    folder = tmp_path / "image" / kernel.sha256
    folder.mkdir(parents=True)
    (folder / "System.map").write_text(serialise(kernel.symbols)[:99_999] + "\0")
    (folder / "facts-1.json").write_text("")
    again = open_kernel(kernel.path)
    assert again.symbols == kernel.symbols
    assert again.facts == kernel.facts
    assert (folder / "System.map").read_text() == serialise(kernel.symbols)


def test_vmlinux_is_a_kernel_too(kernel: Kernel, tmp_path: Path) -> None:
    file, names = tmp_path / "vmlinux", tmp_path / "System.map"
    file.write_bytes(unpack(kernel.path.read_bytes()))
    names.write_text(serialise(kernel.symbols))
    plain = open_kernel(file, names)
    assert plain.facts == kernel.facts
    assert plain.modules is None
    # QEMU starts any bzImage, and a vmlinux that says where: Xen's note of type 18.
    assert kernel.startable and plain.startable
    file.write_bytes(file.read_bytes().replace(struct.pack("<II", 8, 18) + b"Xen\0", bytes(12)))
    assert not open_kernel(file, names).startable
    with pytest.raises(KernelImageError, match="stripped"):
        read_symbols(file)


def test_archive_is_one_for_busyboxs_cpio(kernel: Kernel) -> None:
    archive = build_initramfs(init_script(), kernel.modules)
    listing = subprocess.run(
        [find_busybox(), "cpio", "-tv"], input=archive.read_bytes(), capture_output=True, check=True
    ).stdout.decode()
    assert re.search(r"^crw-------.* dev/console$", listing, re.MULTILINE)
    assert re.search(r"^lrwxrwxrwx.* bin/sh -> busybox$", listing, re.MULTILINE)
    assert re.search(r"^-rwxr-xr-x.* init$", listing, re.MULTILINE)
