"""One language chooses accesses: where a guest waits, and in the trace that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.api import boot, open_trace
from tracer.errors import UsageError
from tracer.linux.kernel import default_kernel, open_kernel
from tracer.linux.module_folder import read_folder

pytestmark = pytest.mark.qemu

# Linux 6.1 probes the controller in its initcall, 6.12 in a thread of its own.
ENABLING = (
    "register is CC and value & 1 and callers is nvme_enable_ctrl"
    " and (phase ~ *nvme* or phase ~ 'async *')"
)
READY = 'register == CSTS and value & 1 and mark in "reset".. and changes'

REFUSED = [
    ("break if module == nvem", "no module is called nvem"),
    ("break if phase == kernle", "no phase is called kernle; did you mean kernel?"),
    ('break if phase == "initcall nvme_inti"', "did you mean initcall nvme_init?"),
    ("break if mnemonic == movzxx", "no instruction is called movzxx; did you mean movzx?"),
    ("filter if region is nvem", "no region is called nvem; did you mean nvme?"),
    ("tbreak if register is nvme.CCC", "no register is called nvme.CCC"),
    ("break if callers is nvme_reset_wrk", "did you mean nvme_reset_work?"),
    ("filter if callers is nvme_reset_work", "`vetrace boot --stacks` records them"),
    ("filter if count == 1", "count is of breaks"),
]
"""Names that no guest, or not this one, can have; and what is said of them."""


def a_module() -> str:
    """Return the name of a module that lies beside the default kernel."""
    image = default_kernel()
    assert image is not None
    return min(read_folder(open_kernel(image).modules).files)


def test_a_guest_and_its_trace_are_chosen_from_in_one_language(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    with boot(output=path, stacks=True) as guest:
        # Names of the kernel's own that nothing has come to yet.
        guest.run(f"break if module == '{a_module()}' or phase == 'initcall nvme_init'")
        guest.run("delete")
        first = next(guest.at(f"nvme if {ENABLING}"))
        guest.run("mark reset it")
        second = next(guest.at(f"read nvme if {READY}"))
        guest.run("filter if callers is 'nvme_*' and changes")
        assert guest.run("show last 5 if mark == 'reset it' and region is nvme") != []
        assert guest.run("show last 5 if mark in ..'reset' and region is nvme") != []
        guest.finish()
    trace = open_trace(path)
    begin, end = first.time_ns / 1e9 - 0.5, first.time_ns / 1e9 + 0.5
    assert first.seq == next(iter(trace.where(ENABLING))).seq
    assert second.seq == next(iter(trace.where(READY, region="nvme", read=True))).seq
    for words, long in (
        ({"region": "nvme", "write": True}, "region is nvme and direction == write"),
        ({"register": "ENTRY*", "changes": True}, "register is ENTRY* and changes"),
        (
            {"symbol": "nvme_*", "time": f"{begin:.3f}-{end:.3f}"},
            f"symbol is nvme_* and time in {begin:.3f}s..{end:.3f}s",
        ),
        ({"phase": "work *"}, 'phase is "work *"'),
        ({"from_mark": "reset", "vcpu": 0}, 'mark in "reset".. and vcpu == 0'),
        ({"value": "1/0xf", "offset": 0x1C}, "value & 0xf == 1 and offset touches 0x1c"),
    ):
        short = [access.seq for access in trace.where(**words)]  # type: ignore[arg-type]
        assert short == [access.seq for access in trace.where(long)] != []


def test_what_no_guest_can_have_is_refused(tmp_path: Path) -> None:
    with boot(region="nvme") as guest:
        for text, told in REFUSED:
            with pytest.raises(UsageError) as caught:
                guest.run(text)
            assert told in str(caught.value)
