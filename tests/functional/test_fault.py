"""What goes wrong while a guest is traced: one line, exit status 1, a readable trace, no residue.

Every run here goes through ``vetrace_run.vetrace``, which fails a test whose run leaves a process
or a temporary file.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, assemble
from vetrace_run import DEADLINE, Running, agreed, boot, read_trace, run, vetrace

from tracer.linux.kernel import default_kernel
from tracer.text.amount import counted

pytestmark = pytest.mark.qemu


def the_line(err: str) -> str:
    """The one line that says what went wrong: the last, after the closing table's counts."""
    lines = err.splitlines()
    assert "Traceback" not in err, err
    assert lines, "nothing was said"
    assert lines[-1].startswith("vetrace: "), err
    return lines[-1].removeprefix("vetrace: ")


def only_line(err: str) -> str:
    line = the_line(err)
    progress = ("vetrace: unpacking", "vetrace: reading", "vetrace: Linux ")
    assert [text for text in err.splitlines() if not text.startswith(progress)] == [
        f"vetrace: {line}"
    ]
    return line


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


# ---- before the guest runs


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no kernel"),
        (b"just a text\n", "no kernel"),
        (b"\x7fELF" + bytes(200), "damaged"),
        (bytes(0x202) + b"HdrS" + bytes(4000), ""),
    ],
)
def test_kernel_that_is_none(content: bytes, says: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    done = boot(tmp_path, "--kernel", image)
    assert done.status == 1
    assert str(image) in only_line(done.err)
    assert not done.trace.exists()


def test_kernel_that_is_not_there(tmp_path: Path) -> None:
    done = boot(tmp_path, "--kernel", tmp_path / "nothing")
    assert done.status in (1, 2)
    assert str(tmp_path / "nothing") in only_line(done.err)


def test_cut_kernel(tmp_path: Path) -> None:
    kernel = default_kernel()
    assert kernel is not None
    image = tmp_path / "vmlinuz"
    image.write_bytes(kernel.read_bytes()[: 3 << 20])
    done = boot(tmp_path, "--kernel", image)
    assert done.status == 1
    assert str(image) in only_line(done.err)


def test_symbols_of_nothing(tmp_path: Path) -> None:
    symbols = tmp_path / "System.map"
    symbols.write_text("0000000000000000 A nothing\n")
    done = boot(tmp_path, "--symbols", symbols)
    assert done.status == 1
    assert str(symbols) in only_line(done.err)


@pytest.mark.parametrize("option", ["--qemu", "--gdb"])
def test_program_that_is_missing(option: str, tmp_path: Path) -> None:
    done = boot(tmp_path, option, tmp_path / "nothing")
    assert done.status == 1
    line = only_line(done.err)
    assert f"{tmp_path / 'nothing'} not found" in line
    assert "install" in line


@pytest.mark.parametrize("option", ["--qemu", "--gdb"])
@pytest.mark.parametrize("text", ["", "import sys; sys.exit(3)", "print('hello', flush=True)"])
def test_program_that_is_another(option: str, text: str, tmp_path: Path) -> None:
    done = boot(tmp_path, option, script(tmp_path, "program", text))
    assert done.status == 1
    only_line(done.err)


def test_old_gdb(tmp_path: Path) -> None:
    old = script(
        tmp_path,
        "gdb",
        "import sys\n"
        "print('(gdb)', flush=True)\n"
        "for line in sys.stdin:\n"
        "    token = ''.join(c for c in line[:8] if c.isdigit())\n"
        "    print('~\"GNU gdb (GDB) 7.12\\\\n\"')\n"
        "    print(token + '^done', flush=True)\n",
    )
    done = boot(tmp_path, "--gdb", old)
    assert done.status == 1
    assert "GDB 7.12; 10 or newer needed" in only_line(done.err)


def test_old_qemu(tmp_path: Path) -> None:
    old = script(
        tmp_path,
        "qemu",
        "import json, re, socket, sys\n"
        "number = next(int(m[1]) for w in sys.argv if (m := re.search(r'id=qmp,fd=(\\d+)', w)))\n"
        "qmp = socket.socket(fileno=number)\n"
        "version = {'qemu': {'major': 2, 'minor': 12, 'micro': 0}, 'package': ''}\n"
        "greeting = {'QMP': {'version': version, 'capabilities': []}}\n"
        "qmp.sendall(json.dumps(greeting).encode() + b'\\n')\n"
        "while asked := qmp.recv(4096):\n"
        "    answer = {'return': {}, **{k: v for k, v in json.loads(asked).items() if k == 'id'}}\n"
        "    qmp.sendall(json.dumps(answer).encode() + b'\\n')\n",
    )
    done = boot(tmp_path, "--qemu", old)
    assert done.status == 1
    assert "QEMU 2.12.0; 6.0 or newer needed" in only_line(done.err)


def test_qemu_of_another_cpu(tmp_path: Path) -> None:
    if shutil.which("qemu-system-i386") is None:
        pytest.skip("no qemu-system-i386 here")
    done = boot(tmp_path, "--quiet", "--qemu", "qemu-system-i386")
    assert done.status == 1
    line = the_line(done.err)
    assert "(i386) lack rax" in line
    assert "qemu-system-x86_64 has them" in line


def test_argument_that_qemu_refuses(tmp_path: Path) -> None:
    done = boot(tmp_path, "--", "-device", "no-such-device")
    assert done.status == 1
    assert "no-such-device" in only_line(done.err)


def test_a_cpu_without_a_64_bit_mode(tmp_path: Path) -> None:
    done = boot(tmp_path, "--", "-cpu", "qemu32")
    assert done.status == 2
    assert "no 64-bit mode" in only_line(done.err)


def test_memory_that_a_kernel_does_not_fit_into(tmp_path: Path) -> None:
    done = boot(tmp_path, "--memory", "64M")
    assert done.status == 1
    assert "--memory" in only_line(done.err)


def test_region_that_is_not_there(tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--region", "no-such-region")
    assert done.status == 2
    assert "no region is called no-such-region" in the_line(done.err)


def test_trace_that_cannot_be_written(tmp_path: Path) -> None:
    done = run(tmp_path, "boot", "--quiet", "-o", tmp_path / "no" / "folder" / "t.vtrace")
    assert done.status == 1
    assert "t.vtrace" in the_line(done.err)


# ---- while it runs


def readable(folder: Path) -> str:
    """Check that the trace can be read and holds accesses; return how it says it ended."""
    trace = read_trace(folder / "trace.vtrace")
    assert trace.damage is None
    assert trace.intercepts
    return trace.end.outcome


def files(folder: Path) -> list[str]:
    return ["--serial", str(folder / "serial"), "-o", str(folder / "trace.vtrace")]


def test_qemu_killed(tmp_path: Path) -> None:
    with vetrace(tmp_path, "boot", "--quiet", *files(tmp_path)) as running:
        running.until_tracing()
        os.kill(running.pid_of("qemu"), signal.SIGKILL)
        done = running.finish()
    assert done.status == 1
    assert "QEMU" in the_line(done.err)
    assert "killed" in the_line(done.err)
    assert readable(tmp_path) in the_line(done.err)


def test_gdb_killed(tmp_path: Path) -> None:
    with vetrace(tmp_path, "boot", "--quiet", *files(tmp_path)) as running:
        running.until_tracing()
        os.kill(running.pid_of("gdb"), signal.SIGKILL)
        done = running.finish()
    assert done.status == 1
    assert "gdb died" in the_line(done.err)
    assert "gdb died" in readable(tmp_path)


def test_an_answer_that_belongs_to_another_packet(tmp_path: Path) -> None:
    # GDB as it is, but for the first answer of a device.
    broken = script(
        tmp_path,
        "gdb",
        "import os, subprocess, sys\n"
        "gdb = subprocess.Popen(['gdb', *sys.argv[1:]], stdout=subprocess.PIPE)\n"
        "asked = done = False\n"
        "for line in gdb.stdout:\n"
        "    if asked and not done and line.startswith(b'~\"received: '):\n"
        '        line, done = b\'~"received: \\\\"OK\\\\"\\\\n"\\n\', True\n'
        "    asked = asked or line.startswith(b'~\"sending: mf')\n"
        "    os.write(1, line)\n",
    )
    done = boot(tmp_path, "--quiet", "--gdb", broken)
    assert done.status == 1
    line = the_line(done.err)
    assert "QEMU's stub answered 'OK' to GDB's packet 'mf" in line
    assert "out of step" in line
    assert read_trace(done.trace).end.outcome == line


@pytest.mark.long
def test_qemu_is_frozen_for_longer_than_a_debugger_waits(tmp_path: Path) -> None:
    with vetrace(tmp_path, "boot", "--quiet", "--check", *files(tmp_path)) as running:
        running.until_tracing()
        qemu = running.pid_of("qemu")
        for _ in range(2):
            os.kill(qemu, signal.SIGSTOP)
            time.sleep(75)  # longer than GDB waits by itself, and than any shorter setting
            os.kill(qemu, signal.SIGCONT)
            time.sleep(1)
        done = running.finish()
    assert agreed(done) > 1000
    assert readable(tmp_path) == "poweroff"


def ignore_interrupts() -> None:
    """What a shell script does to what it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def heed_hangups() -> None:
    """Heed SIGHUP as a program on a terminal does, whatever started the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: signal.Signals, background: bool, tmp_path: Path) -> None:
    def prepare() -> None:
        heed_hangups()
        if background:
            ignore_interrupts()

    arguments = ("boot", "--quiet", *files(tmp_path))
    with vetrace(tmp_path, *arguments, prepare=prepare) as running:
        running.until_tracing()
        running.process.send_signal(number)
        done = running.finish()
    assert done.status == 128 + number
    assert "interrupted" in the_line(done.err)
    assert "accesses were recorded, kept in" in the_line(done.err)
    assert readable(tmp_path) == "interrupted"


def test_nohup(tmp_path: Path) -> None:
    def ignore_hangups() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    arguments = ("boot", "--quiet", "--region", "nvme", *files(tmp_path))
    with vetrace(tmp_path, *arguments, prepare=ignore_hangups) as running:
        running.until_tracing()
        running.process.send_signal(signal.SIGHUP)
        done = running.finish()
    assert done.status == 0, done.err
    assert readable(tmp_path) == "poweroff"


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    with vetrace(tmp_path, "boot", "--quiet", "--check", may_leave=True) as running:
        running.until(lambda: len(running.children()) >= 2, "both programs are there")
        running.process.kill()
        running.process.communicate()
        assert running.residue() != []
        with vetrace(tmp_path, "regions") as beside:
            beside.finish()
        assert [line for line in running.residue() if line.startswith("file")] == []


@pytest.mark.parametrize("program", ["gdb", "qemu"])
def test_interrupted_while_it_starts(program: str, tmp_path: Path) -> None:
    def started(running: Running) -> bool:
        return any(name.startswith(program) for name in running.children())

    with vetrace(tmp_path, "boot", "--quiet", *files(tmp_path)) as running:
        running.until(lambda: started(running), f"{program} is there")
        running.process.send_signal(signal.SIGINT)
        done = running.finish()
    assert done.status == 128 + signal.SIGINT
    assert "interrupted" in only_line(done.err)


def test_killed(tmp_path: Path) -> None:
    with vetrace(tmp_path, "boot", "--quiet", *files(tmp_path), may_leave=True) as running:
        running.until_tracing()
        programs = list(running.children().values())
        assert len(programs) >= 2
        running.process.kill()
        running.process.communicate()
        # The kernel ends them; it tells nobody when.
        for pid in programs:
            subprocess.run(
                ["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=DEADLINE, check=True
            )
        assert running.children() == {}
    trace = read_trace(tmp_path / "trace.vtrace")
    assert trace.intercepts


def test_trace_grows_too_large(tmp_path: Path) -> None:
    with vetrace(tmp_path, "boot", "--quiet", *files(tmp_path)) as running:
        running.until_tracing()
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))
        done = running.finish()
    assert done.status == 1
    assert "trace.vtrace: File too large" in the_line(done.err)
    trace = read_trace(tmp_path / "trace.vtrace")
    assert "no end record" in (trace.damage or "")
    assert f"what is in it is safe: {counted(len(trace.records), 'record')}" in the_line(done.err)


def test_disk_full(tmp_path: Path) -> None:
    done = run(tmp_path, "boot", "--quiet", "-o", "/dev/full")
    assert done.status == 1
    assert "/dev/full" in the_line(done.err)
    assert "No space left on device" in the_line(done.err)


def test_console_disk_full(tmp_path: Path) -> None:
    done = run(
        tmp_path, "boot", "--quiet", "--serial", "/dev/full", "-o", tmp_path / "trace.vtrace"
    )
    assert done.status == 1
    assert "console to /dev/full: No space left on device" in the_line(done.err)
    readable(tmp_path)


def test_reader_of_the_output_leaves(tmp_path: Path) -> None:
    with vetrace(tmp_path, "boot", "--json", *files(tmp_path)) as running:
        assert running.process.stdout is not None
        assert running.process.stdout.readline().startswith("{")
        running.process.stdout.close()
        assert running.process.stderr is not None
        err = running.process.stderr.read()
        status = running.process.wait(DEADLINE)
    assert "Traceback" not in err
    assert status == 141, err
    readable(tmp_path)


def test_guest_panics(tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--append", "rdinit=/nothing root=/dev/nothing")
    assert done.status == 1
    assert "the guest panicked: Kernel panic - not syncing: VFS:" in the_line(done.err)
    assert "panicked" in readable(tmp_path)


def test_guest_triple_faults(tmp_path: Path) -> None:
    guest = assemble(tmp_path, crash=True)
    kernel = ("--kernel", guest, "--symbols", guest)
    done = boot(tmp_path, "--quiet", *kernel, "--region", REGION, "--", *DEVICE)
    assert done.status == 1
    assert "the guest triple-faulted by itself, at " in the_line(done.err)
    assert "triple-faulted" in readable(tmp_path)


def test_a_kernel_without_its_modules_is_told(tmp_path: Path) -> None:
    image = default_kernel()
    assert image is not None
    alone = tmp_path / "vmlinuz"
    alone.write_bytes(image.read_bytes())
    done = boot(tmp_path, "--quiet", "--untraced", "--kernel", alone)
    assert done.status == 1
    assert "the default guest found no disk" in the_line(done.err)
    assert "no modules beside its image" in the_line(done.err)


def test_nothing_to_trace_fails_the_check(tmp_path: Path) -> None:
    guest = assemble(tmp_path)
    kernel = ("--kernel", guest, "--symbols", guest)
    done = boot(tmp_path, "--quiet", "--check", *kernel, "--region", "hpet", "--", *DEVICE)
    assert done.status == 3
    assert "nothing was traced" in the_line(done.err)
