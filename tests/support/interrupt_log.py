"""Interrupts as lines of QEMU's log, with ``-d int``: taken by the monitor, given to the guest."""

from __future__ import annotations

from tracer.compiled.monitor import PER_VCPU

SHARED = 0x1FC0_6000
VCPUS = 2
CR3, IDT, GDT = SHARED + 0x1000, SHARED + 0x3000, SHARED + 0x4000
CODE = 0x1F82_CFEC  # of the monitor
HERE, THERE = 0xFFFF_FFFF_815C_E0C9, 0x7F00_0000_1000
SVM, PLAIN = 0x1D01, 0xD01


def vmcb(vcpu: int) -> int:
    return SHARED - (VCPUS - vcpu) * PER_VCPU


def serving(vector: int, virtual: str = "virtual ") -> str:
    return f"Servicing {virtual}hardware INT=0x{vector:02x}"


def at(vector: int, place: int, sp: int, cpl: int = 0, base: int = 0, more: str = "i=0") -> str:
    return (
        f" 16369: v={vector:02x} e=0000 {more} cpl={cpl} IP=0010:{place - base:016x}"
        f" pc={place:016x} SP=0000:{sp:016x} env->regs[R_EAX]=000000008004a400"
    )


def registers(
    ip: int, sp: int, task: int, efer: int = SVM,
    tables: tuple[int, int, int] = (0x2A1_0000, 0xFFFF_FE00_0000_1000, 0xFFFF_FE00_0000_0000),
) -> list[str]:  # fmt: skip
    cr3, gdt, idt = tables
    return [
        "RAX=000000008004a400 RBX=0000000000000060 RCX=fffffffffffff000 RDX=ffff88801ee1fb81",
        f"RSI=0000000000000000 RDI=0000000000000b81 RBP=00000000019b5400 RSP={sp:016x}",
        "R8 =000000004f4d9572 R9 =00000000255facd7 R10=ffff88801fe8daa8 R11=0000000002800063",
        "R12=0000000000000000 R13=000000001fbb5400 R14=4cc2eebfecaab9d8 R15=0000000000000000",
        f"RIP={ip:016x} RFL=00000206 [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=0",
        "ES =0000 0000000000000000 00000000 00000000",
        "CS =0010 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]",
        "FS =0000 0000000000000000 00000000 00000000",
        f"GS =0000 {0xFFFF_8880_0000_0000 | task:016x} 00000000 00000000",
        "LDT=0000 0000000000000000 00000000 00008200 DPL=0 LDT",
        f"TR =0040 {task:016x} 00004087 00008900 DPL=0 TSS64-avl",
        f"GDT=     {gdt:016x} 000007ff",
        f"IDT=     {idt:016x} 00000fff",
        f"CR0=80050033 CR2=ffffffffff5fd0b0 CR3={cr3:016x} CR4=000000a0",
        "DR6=00000000ffff0ff0 DR7=0000000000000400",
        f"EFER={efer:016x}",
    ]


def taken(vector: int, vcpu: int) -> list[str]:
    sp = vmcb(vcpu) + 0x3000
    inside = registers(CODE, sp, 0x1000 + vcpu, tables=(CR3, GDT, IDT))
    return [serving(vector, ""), at(vector, CODE, sp), *inside]


def managed(vcpu: int, *lines: str) -> list[str]:
    """An SMI that comes to the monitor, and these lines of what firmware does."""
    inside = registers(CODE, vmcb(vcpu) + 0x3000, 0x1000 + vcpu, tables=(CR3, GDT, IDT))
    return ["SMM: enter", *inside, *lines, "SMM: after RSM", *inside]


def given(vector: int, vcpu: int, place: int = HERE, cpl: int = 0) -> list[str]:
    return [serving(vector), at(vector, place, 0x5A48, cpl),
            *registers(place, 0x5A48, 0x1000 + vcpu)]  # fmt: skip
