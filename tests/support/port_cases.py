"""Cases of the bare guest: INS and OUTS between device memory and I/O ports."""

from __future__ import annotations

from bare_guest import DEVICE_LINEAR, NOTHING, Case

SIGNATURE = "mov edx, 0x510; xor eax, eax; out dx, ax; inc edx; "  # docs/specs/fw_cfg.rst
BRIDGE = "mov edx, 0xcf8; mov eax, 0x80000000; out dx, eax; mov edx, 0xcfc; "
Q, E, M, U = b"QEMU"
WHOLE = int.from_bytes(b"QEMU", "little")
ID = 0x29C0_8086  # of q35: hw/pci-host/q35.c
ADDRESS = 0x8000_0000
TEXT = int.from_bytes(b"string\n", "little")
UPPER = 0x5_0000_0000


def letters(*offsets: int) -> list[tuple[str, int, int, int | None]]:
    """Stores of the letters, in their order, at these offsets."""
    return [("W", offset, 1, letter) for offset, letter in zip(offsets, b"QEMU", strict=False)]


CASES = [
    Case(SIGNATURE + "insb; movzx eax, byte ptr [rdi - 1]", [*letters(0), ("R", 0, 1, Q)], {},
         {"rax": Q, "rdx": 0x511}),
    Case(SIGNATURE + "rep insb; mov eax, [rdi - 4]", [*letters(0, 1, 2, 3), ("R", 0, 4, WHOLE)],
         {"rcx": 4}, {"rax": WHOLE, "rcx": 0}),
    Case(SIGNATURE + "repne insb; in al, dx", letters(0, 1, 2), {"rcx": 3}, {"rax": U, "rcx": 0}),
    Case(SIGNATURE + "add rdi, 3; std; rep insb; cld; mov eax, [rdi + 1]",
         [*letters(3, 2, 1, 0), ("R", 0, 4, int.from_bytes(b"UMEQ", "little"))], {"rcx": 4},
         {"rax": int.from_bytes(b"UMEQ", "little"), "rcx": 0}),
    # a count of nothing leaves the port alone
    Case(SIGNATURE + "rep insb; in al, dx", [], {"rcx": 0}, {"rax": Q, "rcx": 0}),
    # a count, a pointer and a port with more above than counts
    Case(SIGNATURE + "bts rdx, 40; bts rdi, 40; addr32 rep insb; btr rdx, 40; in al, dx",
         letters(0, 1, 2), {"rcx": UPPER | 3}, {"rax": U, "rcx": 0, "rdx": 0x511}),
    Case(SIGNATURE + "bts edx, 20; insb; movzx edx, dx; in al, dx", letters(0), {}, {"rax": E}),
    # widths
    Case(BRIDGE + "insd; mov eax, [rdi - 4]", [("W", 0, 4, ID), ("R", 0, 4, ID)], {}, {"rax": ID}),
    Case(BRIDGE + ".byte 0x48, 0x6d; mov eax, [rdi - 4]",  # REX.W does not make it wider
         [("W", 0, 4, ID), ("R", 0, 4, ID)], {}, {"rax": ID}),
    Case(BRIDGE + "rep insw", [("W", 0, 2, ID & 0xFFFF), ("W", 2, 2, ID & 0xFFFF)], {"rcx": 2},
         {"rcx": 0}),
    Case(BRIDGE + "add edx, 2; insw; movzx eax, word ptr [rdi - 2]",
         [("W", 0, 2, ID >> 16), ("R", 0, 2, ID >> 16)], {}, {"rax": ID >> 16}),
    Case(BRIDGE + "inc rdi; insd; mov eax, [rdi - 4]", [("W", 1, 4, ID), ("R", 1, 4, ID)], {},
         {"rax": ID}),
    # the other way
    Case(f"mov dword ptr [rdi], {ADDRESS:#x}; mov rsi, rdi; mov edx, 0xcf8; outsd; add edx, 4;"
         " in eax, dx; sub rsi, rdi", [("W", 0, 4, ADDRESS), ("R", 0, 4, ADDRESS)], {},
         {"rax": ID, "rsi": 4}),
    Case("mov word ptr [rdi], 0; mov rsi, rdi; mov edx, 0x510; mov eax, 1; out dx, ax; outsw;"
         " inc edx; xor eax, eax; in al, dx; sub rsi, rdi", [("W", 0, 2, 0), ("R", 0, 2, 0)], {},
         {"rax": Q, "rsi": 2}),
    # index and data of the CMOS: a byte that nobody uses
    Case("mov word ptr [rdi], 0x5a40; mov rsi, rdi; mov edx, 0x70; outsb; inc edx; outsb;"
         " mov eax, 0x40; out 0x70, al; in al, 0x71",
         [("W", 0, 2, 0x5A40), ("R", 0, 1, 0x40), ("R", 1, 1, 0x5A)], {}, {"rax": 0x5A}),
    Case("mov eax, 0x40; out 0x70, al; mov dword ptr [rdi], 0x44332211; lea rsi, [rdi + 3];"
         " mov edx, 0x71; std; rep outsb; cld; in al, dx; sub rsi, rdi",
         [("W", 0, 4, 0x44332211), *(("R", 3 - n, 1, 0x11 * (4 - n)) for n in range(3))],
         {"rcx": 3}, {"rax": 0x22, "rcx": 0, "rsi": 0}),
    Case(f"movabs rax, {TEXT:#x}; mov [rdi], rax; mov rsi, rdi; mov edx, 0x3f8; rep outsb",
         [("W", 0, 8, TEXT), *(("R", n, 1, letter) for n, letter in enumerate(b"string\n"))],
         {"rcx": 7}, {"rcx": 0}),
    Case("mov ecx, 0xc0000100; mov eax, 0x20; xor edx, edx; wrmsr;"
         f" mov dword ptr [rdi + 32], {ADDRESS:#x}; mov rsi, rdi; mov edx, 0xcf8;"
         " outs dx, dword ptr fs:[rsi]; xor eax, eax; xor edx, edx; wrmsr; mov edx, 0xcfc;"
         " in eax, dx", [("W", 32, 4, ADDRESS), ("R", 32, 4, ADDRESS)], {}, {"rax": ID}),
    # from RAM over to the device, and back
    Case(SIGNATURE + "rep insb; mov eax, [rdi - 4]",
         [("W", 0, 1, M), ("W", 1, 1, U), ("R", 0, 2, M | U << 8)],
         {"rdi": DEVICE_LINEAR - 2, "rcx": 4}, {"rax": WHOLE, "rcx": 0}, at=0),
    Case(SIGNATURE + "std; rep insb; cld; mov eax, [rdi + 1]",
         [*letters(1, 0), ("R", 0, 2, E | Q << 8)], {"rdi": DEVICE_LINEAR + 1, "rcx": 4},
         {"rax": int.from_bytes(b"UMEQ", "little"), "rcx": 0}, at=0),
    # over two pages of the device: the second page is 4096 bytes on
    Case(BRIDGE + "insd; mov eax, [rdi - 4]",
         [("W", 0, 2, ID & 0xFFFF), ("W", 2, 2, ID >> 16), ("R", 0, 2, ID & 0xFFFF),
          ("R", 2, 2, ID >> 16)], {"rdi": DEVICE_LINEAR + 0xFFE}, {"rax": ID}, at=0xFFE),
    # to where nothing is mapped: the fault comes before the port
    Case(SIGNATURE + "rep insb", letters(0, 1), {"rdi": NOTHING - 2, "rcx": 4}, {"rcx": 2},
         fault=(2, NOTHING), at=0x1FFE),
    Case("mov edx, 0x511; xor eax, eax; in al, dx", [], {}, {"rax": M}),
]  # fmt: skip
