# A guest that touches device memory, one instruction a case, and says over the serial port whether
# each did what it should. `cases.S`, made by the test, holds the macro calls and constants:
#
#   DEVICE_SLOT   PCI slot of an NVMe controller whose memory buffer (BAR 2) is the device
#   cases         macro: the code of all cases
#   CRASH         instead of the cases, a triple fault
#   OWN_STACK     page faults have a stack of their own (IST 1), so that RSP may be anywhere
#   ROOM          RAM is left to compiled sites
#
# Linear addresses from WINDOW on, a page each: RAM, device, device, nothing; with ROOM the first page
# of the device once more, behind another one of nothing.
# Ref: Xen docs/misc/pvh.pandoc (the entry); Intel SDM vol. 3A, 4.5, 6.14.1; PCI 3.0, 3.2.2.3.2.

.intel_syntax noprefix

.set LINK, 0xffffffff80000000
.set WINDOW, 0x40000000
.set DEVICE, WINDOW + 0x1000
.set SERIAL, 0x3f8
.set SLOT_SIZE, 64
.set POWER_OFF, 0x604           # PM1a_CNT of q35: SLP_EN with SLP_TYP 0 is S5
.set PRESENT, 3                 # present and writable
.set LARGE, 0x83                # the same, 2 MiB
.set UNCACHED, 0x1b

.include "cases.S"

.section .note, "a", @note
    .balign 4
    .long 4, 8, 18              # sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start32 - LINK

.bss
    .balign 4096
root:        .skip 4096
low:         .skip 4096         # 0 to 4 GiB
high:        .skip 4096         # the same memory at LINK
directories: .skip 4 * 4096
window:      .skip 4096
window_ram:  .skip 4096
             .skip 4096
stack_top:
idt:         .skip 15 * 16
             .balign 16
tss:         .skip 104
fault_stack: .skip 1024
fault_stack_top:
             .balign 16
resume_at:   .skip 8            # where a page fault of the guest's own goes on
fault_code:  .skip 8
traps:       .skip 8            # how often vector 1 was taken
             .balign 64
buffer:      .skip 64           # RAM for string and vector instructions, aligned for these
.ifdef ROOM
             .balign 4096
vetrace_room: .skip 0x480000
vetrace_room_end:
.endif

.section .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 8: 64-bit code
    .quad 0x00cf93000000ffff    # 16: data
    .quad 0x0000890000000067    # 24: TSS, its address filled in
    .quad 0
gdt_pointer:
    .word . - gdt - 1
    .long gdt - LINK
    .long 0
idt_pointer:
    .word 15 * 16 - 1
    .quad idt
no_idt:
    .word 0
    .quad 0

.text
.global _text
_text:
.code32
start32:
    cli
    lea esp, [stack_top - LINK]
    # Page tables: four directories of 2 MiB pages, seen at 0 and at LINK.
    mov dword ptr [root - LINK], offset low - LINK + PRESENT
    mov dword ptr [root - LINK + 511 * 8], offset high - LINK + PRESENT
    mov eax, offset directories - LINK + PRESENT
    mov dword ptr [high - LINK + 510 * 8], eax
    xor ecx, ecx
1:  mov [low - LINK + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jne 1b
    xor ecx, ecx
    mov eax, LARGE
2:  mov [directories - LINK + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 4 * 512
    jne 2b
    # The window takes the place of the 2 MiB page at 1 GiB.
    mov dword ptr [directories - LINK + 512 * 8], offset window - LINK + PRESENT
    mov dword ptr [window - LINK], offset window_ram - LINK + PRESENT
    # BAR 2 of the device, low half: below 4 GiB.
    mov eax, 0x80000018 + DEVICE_SLOT * 0x800
    mov dx, 0xcf8
    out dx, eax
    mov dx, 0xcfc
    in eax, dx
    and eax, 0xfffff000
    or eax, UNCACHED
    mov [window - LINK + 8], eax
    add eax, 4096
    mov [window - LINK + 2 * 8], eax
.ifdef ROOM
    sub eax, 4096
    mov [window - LINK + 5 * 8], eax
.endif
    # Long mode, with SSE and AVX.
    mov eax, cr4
    or eax, 0x40620             # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
    mov cr4, eax
    xor ecx, ecx                # XCR0
    xor edx, edx
    mov eax, 7                  # x87, SSE, AVX
    xsetbv
    mov eax, offset root - LINK
    mov cr3, eax
    mov ecx, 0xc0000080         # EFER
    rdmsr
    or eax, 0x900               # LME, NXE
    wrmsr
    mov eax, 0x80010033         # PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [gdt_pointer - LINK]
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    .byte 0xea                  # jmp 8:start64
    .long start64 - LINK
    .word 8

.code64
start64:
    movabs rax, offset upper
    jmp rax
upper:
    lea rsp, [rip + stack_top]
    # Vector 14: an interrupt gate without a stack of its own.
    lea rax, [rip + page_fault]
    lea rdi, [rip + idt + 14 * 16]
    mov word ptr [rdi], ax
    mov dword ptr [rdi + 2], 0x8e000008
    shr rax, 16
    mov word ptr [rdi + 6], ax
    shr rax, 16
    mov dword ptr [rdi + 8], eax
    # Vectors 1, 6 and 13 likewise: of these the last alone has an error code.
.macro vector number, handler
    lea rax, [rip + \handler]
    lea rdi, [rip + idt + \number * 16]
    mov word ptr [rdi], ax
    mov dword ptr [rdi + 2], 0x8e000008
    shr rax, 16
    mov word ptr [rdi + 6], ax
    shr rax, 16
    mov dword ptr [rdi + 8], eax
.endm
    vector 1, single_step
    vector 6, bad_opcode
    vector 13, page_fault
.ifdef OWN_STACK
    lea rax, [rip + tss]
    lea rdi, [rip + gdt + 24]
    mov [rdi + 2], ax
    shr rax, 16
    mov [rdi + 4], al
    mov [rdi + 7], ah
    shr rax, 16
    mov [rdi + 8], eax
    # From here on GDTR has a limit beyond the two segments, and an address that stays mapped.
    mov qword ptr [rip + gdt_pointer + 2], offset gdt
    lgdt [rip + gdt_pointer]
    lea rax, [rip + fault_stack_top]
    mov [rip + tss + 36], rax   # IST 1
    mov eax, 24
    ltr ax
    mov byte ptr [rip + idt + 14 * 16 + 4], 1
.endif
    # Serial port: no interrupts, 8 bits.
    mov dx, SERIAL + 3
    mov al, 3
    out dx, al
    # The device's memory before tracing: byte n holds n * 4 + 1, the same in
    # each slot.
    mov edi, DEVICE
    mov al, 1
    mov ecx, 2 * 4096
3:  mov [rdi], al
    inc edi
    add al, 4
    loop 3b
    # What CR2 holds before tracing: so that it is known where it comes from.
    movabs rax, 0x123456789abc
    mov cr2, rax
    # Tracing begins where there is an IDT.
    lidt [rip + idt_pointer]
.ifdef CRASH
    mov edi, DEVICE
    mov eax, [rdi]
    lidt [rip + no_idt]
    ud2
.else
    cases
.endif
    mov dx, POWER_OFF
    mov ax, 0x2000
    out dx, ax
4:  hlt
    jmp 4b

# Prints `case N ok` or `case N FAILED`.
#   r14d  N
#   r15   what differs: zero when nothing does
report:
    lea rsi, [rip + say_case]
    call print
    mov eax, r14d
    mov ecx, 1000
5:  xor edx, edx
    div ecx
    push rdx
    add al, '0'
    mov dx, SERIAL
    out dx, al
    mov eax, ecx
    mov ecx, 10
    xor edx, edx
    div ecx
    mov ecx, eax
    pop rax
    test ecx, ecx
    jnz 5b
    lea rsi, [rip + say_ok]
    test r15, r15
    jz print
    lea rsi, [rip + say_failed]
print:
    mov dx, SERIAL
6:  lodsb
    test al, al
    jz 7f
    out dx, al
    jmp 6b
7:  ret

say_case:   .asciz "case "
say_ok:     .asciz " ok\n"
say_failed: .asciz " FAILED\n"

single_step:
    inc qword ptr [rip + traps]
    iretq
bad_opcode:
    push 6
# The guest's own page faults: on at resume_at, error code and CR2 kept.
page_fault:
    push rax
    mov rax, [rsp + 8]
    mov [rip + fault_code], rax
    mov rax, [rip + resume_at]
    test rax, rax
    jz 8f
    mov [rsp + 16], rax
    mov qword ptr [rip + resume_at], 0
    pop rax
    add rsp, 8
    iretq
8:  lea rsi, [rip + say_failed]
    call print
    mov dx, POWER_OFF
    mov ax, 0x2000
    out dx, ax
9:  hlt
    jmp 9b

# Padding: room for a stub.
    .balign 4096, 0xcc
    .fill 8192, 1, 0xcc

.global start32_physical
.set start32_physical, start32 - LINK
