"""A kernel says on its console which kind of guest it takes itself for.

A kernel that finds nothing of TDX or SEV-ES boots on as an ordinary guest, without a word. It says
what it found once, before the line about process identifiers, which each kernel prints at the same
level: where that comes alone, nothing was found. A console that is told to be quiet has neither.

Ref: Linux arch/x86/mm/mem_encrypt.c `mem_encrypt_init`, called from init/main.c `start_kernel`
(by `arch_cpu_finalize_init` from 6.5 on) before kernel/pid.c `pid_idr_init`; "AMD" came first up to
5.18 (arch/x86/mm/mem_encrypt_amd.c). drivers/virtio/virtio.c `virtio_features_ok`.
"""

from __future__ import annotations

import re

from tracer.confidential.kind import Kind

_FOUND = re.compile(rb"Memory Encryption Features active:([ A-Za-z0-9-]+)")
_BEHIND = re.compile(rb"\bpid_max: default:")
_UNDRIVEN = re.compile(
    rb"(virtio[\w-]* \w+): device must provide VIRTIO_F_(?:ACCESS|IOMMU)_PLATFORM"
)
_WORDS = {Kind.TDX: b"TDX", Kind.SEV_ES: b"SEV-ES"}
_LONGEST = 4096  # bytes of a line; a guest may print without end


class Announcement:
    """Listen to a guest's console, bytes cut anywhere, for whether it is of the kind asked for.

    ``fault`` says why it is not, once that is known; ``heard`` tells that it is.
    """

    def __init__(self, kind: Kind) -> None:
        self.heard = False
        self.fault = ""
        self._kind = kind
        self._rest = b""

    def take(self, data: bytes) -> list[str]:
        """Take note of what the guest printed; return what of it the reader must be told."""
        if self._kind is Kind.PLAIN:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LONGEST:]
        return [told for line in lines if (told := self._line(line))]

    def _line(self, line: bytes) -> str:
        label = self._kind.label
        if undriven := _UNDRIVEN.search(line):
            name = undriven[1].decode("ascii")
            return (
                f"{name} is not driven, as it reaches past the bounce buffers of a {label} guest: "
                "add iommu_platform=on,disable-legacy=on to the device"
            )
        if self.heard or self.fault:
            return ""
        if found := _FOUND.search(line):
            words = found[1].split()
            if _WORDS[self._kind] in words:
                self.heard = True
            else:
                active = b" ".join(words).decode("ascii")
                self.fault = f"the kernel takes itself for no {label} guest: active is {active}"
        elif _BEHIND.search(line):
            self.fault = (
                f"the kernel boots as an ordinary guest: it did not find {label}, of which it "
                "would have told on its console by now"
            )
        return ""
