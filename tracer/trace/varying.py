"""Say which bytes of which devices' registers differ from run to run without meaning anything.

Ref: IA-PC HPET Specification 1.0a, 2.3 (main counter, comparators); Intel SDM vol. 3A, table 10-1
(local APIC); PCI Local Bus Specification 3.0, 6.8.2.6 (MSI-X table entries); NVM Express Base
Specification 1.4, 3.1 (ASQ, ACQ); Virtual I/O Device 1.2, 4.1.4.3 (common configuration), 4.1.4.10
(legacy interface), 4.2.2 and 4.2.4 (registers over MMIO, and those of before 1.0); Serial ATA AHCI
1.3.1, 3.3 (port registers); eXtensible Host Controller Interface for USB 1.2, 5.4 (CRCR, DCBAAP)
and 5.5.2 (ERSTBA, ERDP); Enhanced Host Controller Interface for USB 1.0, 2.3 (operational
registers); OpenHCI for USB 1.0a, 7.2 (memory pointers); Universal Host Controller Interface 1.1,
2.1.5 (FLBASEADD); Programming Interface for Bus Master IDE Controller 1.0, 2.3 (descriptor table
pointer); Intel 82574 GbE Controller Family Datasheet, 10.2.5 and 10.2.6 (receive and transmit
descriptor base addresses); High Definition Audio Specification 1.0a, 3.3 (CORB, RIRB, DMA position,
buffer descriptor lists); SD Host Controller Simplified Specification 3.00, 2.2 (SDMA and ADMA
system addresses); AC '97 Component Specification's controller in the Intel ICH datasheet (buffer
descriptor list bases); RTL8139C+ datasheet, 6 (buffers and rings); Linux vmxnet3_defs.h (DSAL,
DSAH), vmw_pvscsi.h (COMMAND_DATA), tulip.h (CSR3, CSR4), e100.c (scb, port), sym_hipd.h (DSA,
DSP), megaraid_sas.h (inbound_queue_port) and mpi.h (request and reply FIFOs); Intel Virtualization
Technology for Directed I/O 3.3, 10.4 (root table, queues, interrupt remapping table, event
messages); AMD I/O Virtualization Technology Specification 3.06, 3.4 (device table, command buffer,
event log).
"""

from __future__ import annotations

from tracer.trace.mask import Mask


# Names a region after the only one that a device of the kind has: of the first device, of further
# ones, and of one that the reader has called otherwise.
def _only(kind: str) -> tuple[str, ...]:
    return kind, f"{kind}#[0-9]", f"*.{kind}"


def _masks(regions: tuple[str, ...], *places: tuple[int, ...]) -> tuple[Mask, ...]:
    return tuple(Mask(region, *place) for region in regions for place in places)


_E1000 = ("e1000*.mmio", "igb*.mmio", "*.e1000*-mmio", "*.igb-mmio", "e1000*.bar0", "igb*.bar0")
_QUEUES = range(0, 0x400, 0x100)

# Addresses in RAM where a driver has put what its device reads. A place is the first and the last
# byte, after how many bytes the next one begins, and the bits of the first byte that are none of
# the address.
_ADDRESSES = (
    *_masks((*_only("nvme"), "nvme*.bar0"), (0x28, 0x37)),  # ASQ, ACQ
    *_masks(("*.common",), (0x20, 0x37)),  # virtio: the queue that is selected
    *_masks(("virtio-mmio*",), (0x80, 0x87), (0x90, 0x97), (0xA0, 0xA7)),  # the same
    *_masks(("virtio-mmio*",), (0x40, 0x43)),  # the same, by its page
    *_masks(("*.virtio-pci",), (0x8, 0xB)),  # the same, at I/O ports
    *_masks(
        (*_only("ahci"), "ahci*.bar5"),
        (0x101, 0x107, 0x80, 0x03), (0x109, 0x10F, 0x80),
    ),  # PxCLB, PxCLBU; PxFB, PxFBU
    *_masks(("*.operational",), (0x18, 0x1F, 0, 0x3F), (0x30, 0x37, 0, 0x3F)),  # CRCR; DCBAAP
    *_masks(("*.runtime",), (0x30, 0x37, 0x20, 0x3F), (0x38, 0x3F, 0x20, 0x0F)),  # ERSTBA; ERDP
    # CTRLDSSEGMENT; PERIODICLISTBASE; ASYNCLISTADDR
    *_masks(("*ehci*.operational",), (0x10, 0x13), (0x15, 0x17, 0, 0x0F), (0x18, 0x1B, 0, 0x1F)),
    *_masks(("*.ohci",), (0x19, 0x1B)),  # HcHCCA
    *_masks(("*.ohci",), *((at, at + 3, 0, 0x0F) for at in range(0x1C, 0x34, 4))),  # its EDs, TDs
    *_masks(("*.uhci",), (0x9, 0xB, 0, 0x0F)),  # FLBASEADD
    *_masks(("*.bmdma",), (0x0, 0x3, 0, 0x03)),  # BMIDTP
    # RDBAL, RDBAH, TDBAL, TDBAH of each queue
    *_masks(
        _E1000,
        *((base + n, base + n + 7, 0, 0x0F) for base in (0x2800, 0x3800) for n in _QUEUES),
    ),
    # CORBLBASE, CORBUBASE; RIRBLBASE, RIRBUBASE; DPLBASE, DPUBASE; SDnBDPL, SDnBDPU
    *_masks(
        _only("intel-hda"),
        (0x40, 0x47, 0, 0x7F), (0x50, 0x57, 0, 0x7F), (0x70, 0x77, 0, 0x7F),
        (0x98, 0x9F, 0x20, 0x7F),
    ),
    # x_BDBAR
    *_masks(("*.nabm", "*.ac97-nabm"), *((at, at + 3, 0, 0x07) for at in (0x0, 0x10, 0x20))),
    *_masks(_only("sdhci"), (0x0, 0x3), (0x58, 0x5F)),  # SDMA and ADMA System Address
    # TSAD, in C+ mode TNPDS and THPDS; RBSTART; RDSAR
    *_masks(
        (*_only("rtl8139"), "rtl8139*.io"),
        (0x20, 0x2F), (0x30, 0x33), (0xE4, 0xEB),
    ),
    *_masks(("vmxnet3*.b1", "*.vmxnet3-b1"), (0x10, 0x13), (0x18, 0x1B)),  # DSAL; DSAH
    *_masks(("tulip*.mem", "tulip*.io", "*.tulip-mem", "*.tulip-io"), (0x18, 0x1B), (0x20, 0x23)),
    # SCB General Pointer; PORT
    *_masks(("*.eepro100-mmio", "*.eepro100-io"), (0x4, 0x7), (0x8, 0xB, 0, 0x0F)),
    *_masks(("*.lsi-mmio", "*.lsi-io"), (0x10, 0x13), (0x2C, 0x2F)),  # DSA; DSP
    # Inbound queue port: the frame, its length behind it
    *_masks(("megasas*.mmio", "*.megasas-mmio"), (0x40, 0x43, 0, 0x1F)),
    *_masks(("*.mptsas-mmio", "*.mptsas-io"), (0x40, 0x43, 0, 0x07), (0x44, 0x47)),  # both FIFOs
    *_masks(("pvscsi*.io", "*.pvscsi-io"), (0x4, 0x7)),  # COMMAND_DATA: the rings' pages
    # RTADDR; IQA; IRTA; PQA; address and data of the messages at faults and completions
    *_masks(
        ("*.intel_iommu",),
        (0x21, 0x27, 0, 0x0F), (0x91, 0x97, 0, 0x0F), (0xB9, 0xBF, 0, 0x0F), (0xD1, 0xD7, 0, 0x0F),
        (0x3C, 0x47), (0xA4, 0xAF),
    ),
    # Bases of device table, command buffer and event log, whose lengths are at either end
    *_masks(("*.amdvi-mmio",), (0x1, 0x6, 0, 0x0F), (0x9, 0xE, 0, 0x0F), (0x11, 0x16, 0, 0x0F)),
)  # fmt: skip

VARYING = (
    Mask("*.msix-table", 0x0, 0xB, 0x10),  # message address and data: which CPU and vector
    *_ADDRESSES,
)
"""Registers whose accesses count, but not these bits of their values."""

PASSING = (
    Mask("hpet", 0xF0, 0xF7),  # main counter
    Mask("hpet", 0x8, 0xF, 0x20),  # comparators: when the next tick is due
    Mask("lapic", 0xB0, 0xB3),  # end of interrupt: as many as there were ticks
    Mask("lapic", 0x380, 0x383),  # timer: initial count
    Mask("lapic", 0x390, 0x393),  # timer: current count
)
"""Registers that are accessed as often as time passes, so that their accesses do not count."""
