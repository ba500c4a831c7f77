"""The memory of the controller and of GDB while a guest goes on and on."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

from scripts.benchmark.result import Result
from tracer.errors import GuestError
from tracer.guest import recipe
from tracer.guest.initramfs import build_initramfs
from tracer.launch.plan import Plan
from tracer.launch.start import header, launch
from tracer.linux.kernel import default_kernel, open_kernel
from tracer.session.session import Session
from tracer.trace.record import Intercept, Record
from tracer.trace.summary import Summary
from tracer.trace.writer import TraceWriter

LIMIT = 1.12
"""The most anonymous memory at the last sample, as a multiple of that at the first."""

_FIRST = 5_000
_EVERY = 4_000
_PASSES = 8  # over the NVMe disk: some 25,000 accesses with the boot's own


class _Scale:
    # A subscriber that weighs both processes every so many intercepts. Only anonymous memory: the
    # guest's RAM is mapped by the controller, and grows resident as the controller looks at it.

    def __init__(self, pids: dict[str, int]) -> None:
        self.samples: list[tuple[int, dict[str, float]]] = []
        self._pids = pids
        self._seen = 0

    def __call__(self, record: Record) -> None:
        if not isinstance(record, Intercept):
            return
        self._seen += 1
        if self._seen >= _FIRST and (self._seen - _FIRST) % _EVERY == 0:
            weights = {name: _anonymous_mib(pid) for name, pid in self._pids.items()}
            self.samples.append((self._seen, weights))


def memory_of_a_long_run() -> Result:
    """Weigh the controller over a run that reads a disk again and again."""
    scale = asyncio.run(_run())
    first, last = scale.samples[0], scale.samples[-1]
    growth = {name: last[1][name] - weight for name, weight in first[1].items()}
    rows = [
        (
            f"after {seen:6} accesses",
            "   ".join(f"{name} {mib:6.1f} MiB" for name, mib in w.items()),
        )
        for seen, w in scale.samples
    ]
    grown = "   ".join(f"{name} {mib:+6.1f} MiB" for name, mib in growth.items())
    ratios = {name: last[1][name] / weight for name, weight in first[1].items()}
    told = "   ".join(f"{name} {ratio:6.3f}    " for name, ratio in ratios.items())
    rows += [("growth", grown), ("last : first", f"{told}   (limit {LIMIT} each)")]
    return Result(
        f"Anonymous memory of the controller and of GDB while the default guest boots and then "
        f"reads its NVMe disk {_PASSES} times past the page cache, every access traced, counted "
        "and written to a compressed trace.",
        tuple(rows),
        kept=max(ratios.values()) <= LIMIT,
    )


async def _run() -> _Scale:
    with tempfile.TemporaryDirectory(prefix="bench-of-vetrace-") as name:
        folder = Path(name)
        plan = Plan(initrd=_initrd(folder))
        async with launch(plan) as session:
            await session.reach_entry()
            with TraceWriter(folder / "long.vtrace.zst", header(session)) as writer:
                scale = _Scale(_pids(session))
                session.scribes += [writer.append, Summary().take]
                session.subscribers.append(scale)
                await session.trap()
                await session.run()
            if len(scale.samples) < 5:
                raise GuestError(f"the long run was short: {session.counts['accesses']} accesses")
            return scale


def _initrd(folder: Path) -> Path:
    image = default_kernel()
    if image is None:
        raise GuestError("no guest kernel: run scripts/setup")
    script = recipe.init_script().read_text()
    once = "read_disk nvme /dev/nvme0n1\n"
    if once not in script:
        raise GuestError(f"{recipe.init_script()} reads the NVMe disk in another way now")
    often = (
        f"passes={_PASSES}\n"
        "while [ $passes -gt 0 ]; do\n"
        "    echo 3 > /proc/sys/vm/drop_caches\n"
        "    dd if=/dev/nvme0n1 of=/dev/null bs=4k iflag=direct 2>/dev/null\n"
        "    passes=$((passes - 1))\n"
        "done\n"
    )
    init = folder / "init"
    init.write_text(script.replace(once, once + often))
    return build_initramfs(init, open_kernel(image).modules)


def _pids(session: Session) -> dict[str, int]:
    gdb = session.target.client._process  # no one else needs GDB's process
    assert gdb is not None
    return {"controller": 0, "gdb": gdb.pid}


def _anonymous_mib(pid: int) -> float:
    # Ref: proc(5), /proc/[pid]/status.
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
