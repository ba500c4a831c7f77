# A small kernel of another making: a multiboot guest that runs in 32 bits first, enables paging
# late, and then maps devices as it needs them, by leaves of 4 KiB, 2 MiB and 1 GiB, in two sets of
# page tables that it switches between. What it reads it prints, so that two runs can be compared.
#
#   EDU_SLOT     PCI slot of an edu device: its BAR 0 is of 32 bits
#   BUFFER_SLOT  PCI slot of an NVMe controller whose memory buffer (BAR 2) has 64 bits
#   SLEEPS       it sleeps for 6 s before all else, woken each 20 ms by its local APIC
#   UNPACKS      code that is not in the image loads the second tables, and waits for them to be
#                looked at; nothing fills the image up but zeros, at `room`
#   FLAT         its multiboot header has the addresses of an image that is no ELF file
#   TWO          another vCPU maps a device of its own first, in the same tables
#
# It ends through isa-debug-exit at port 0xf4: with 1 as QEMU's exit status where all went well.
# Ref: Multiboot Specification 0.6.96, 3.1; Intel SDM vol. 3A, 4.5, 9.8.5; QEMU docs/specs/edu.rst.

.intel_syntax noprefix

.set SERIAL, 0x3f8
.set EXIT, 0xf4
.set PRESENT, 3                 # present and writable
.set LARGE, 0x80
.set UNCACHED, 0x18
.set IO_APIC, 0xfec00000        # 2 MiB with the HPET at 0xfed00000
.set BEYOND, 0x800000000        # where BAR 2 is moved to: 32 GiB

.include "slots.S"

.section .multiboot, "a"
    .balign 4
image:
.ifdef FLAT
    .long 0x1badb002, 0x10000, -0x1baeb002
    .long image, image, 0, image_end, start32
.else
    .long 0x1badb002, 0, -0x1badb002
.endif

.bss
    .balign 4096
first:       .skip 4096         # the first root
low:         .skip 4096
directory:   .skip 4096         # RAM: 1 GiB by leaves of 2 MiB
pool:        .skip 64 * 4096    # tables to come
pool_end:
             .skip 8192
stack_top:
idt:         .skip 33 * 16
    .balign 16
free:        .skip 8            # the next table of the pool
next:        .skip 8            # where map_device maps next
second:      .skip 8            # the second root
edu:         .skip 8
buffer:      .skip 8
fault_at:    .skip 8
lapic:       .skip 8
ticks:       .skip 8
entered:     .skip 8            # the entry that was made last
unpacked:    .skip 16           # code
done:        .skip 8            # by the other vCPU
scratch:     .skip 16

.data
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 8: 64-bit code
    .quad 0x00cf93000000ffff    # 16: data
gdt_pointer:
    .word . - gdt - 1
    .quad gdt
idt_pointer:
    .word 33 * 16 - 1
    .quad idt

# Reads a doubleword of PCI configuration space into EAX.
.macro configuration slot, register
    mov eax, 0x80000000 + \slot * 0x800 + \register
    mov dx, 0xcf8
    out dx, eax
    mov dx, 0xcfc
    in eax, dx
.endm

.macro configure slot, register, value
    mov eax, 0x80000000 + \slot * 0x800 + \register
    mov dx, 0xcf8
    out dx, eax
    mov dx, 0xcfc
    mov eax, \value
    out dx, eax
.endm

# Prints a text and RAX.
.macro say text
    .pushsection .rodata
7770: .asciz "\text "
    .popsection
    lea rsi, [rip + 7770b]
    call report
.endm

.text
.global _text
_text:
.code32
.global start32
start32:
    cli
    mov esp, offset stack_top
    # Without paging: what is accessed now is nobody's to trace.
    configuration EDU_SLOT, 0x10
    and eax, 0xfffffff0
    mov [edu], eax
    mov ebx, [eax]
    # 64-bit mode, with RAM at its own addresses and nothing else.
    mov eax, offset low + PRESENT
    mov [first], eax
    mov eax, offset directory + PRESENT
    mov [low], eax
    mov eax, PRESENT + LARGE
    xor ecx, ecx
1:  mov [directory + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 512
    jne 1b
    mov eax, cr4
    or eax, 0x620               # PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset first
    mov cr3, eax
    mov ecx, 0xc0000080         # EFER
    rdmsr
    or eax, 0x900               # LME, NXE
    wrmsr
    mov eax, 0x80010033         # PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [gdt_pointer]
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    .byte 0xea                  # jmp 8:start64
    .long start64
    .word 8

.code64
start64:
    lea rax, [rip + page_fault]
    lea rdi, [rip + idt + 14 * 16]
    mov word ptr [rdi], ax
    mov dword ptr [rdi + 2], 0x8e000008
    shr rax, 16
    mov word ptr [rdi + 6], ax
    shr rax, 16
    mov dword ptr [rdi + 8], eax
    lidt [rip + idt_pointer]
    lea rax, [rip + pool]
    mov [rip + free], rax
    movabs rax, 0xffff900000000000
    mov [rip + next], rax
    call setup
.ifdef SLEEPS
    call sleep
.endif
.ifdef TWO
    call wake
.endif
    call main
    mov dx, EXIT
    xor eax, eax
    out dx, al
2:  hlt
    jmp 2b

# Takes its devices: BAR 2 of the controller is moved beyond all RAM.
.type setup, @function
setup:
    configure BUFFER_SLOT, 4, 0
    configure BUFFER_SLOT, 0x18, BEYOND & 0xffffffff
    configure BUFFER_SLOT, 0x1c, BEYOND >> 32
    configure BUFFER_SLOT, 4, 6
    movabs rax, BEYOND
    mov [rip + buffer], rax
    ret

.type main, @function
main:
    # 4 KiB, by a function that says where.
    mov rdi, [rip + edu]
    mov esi, 4096
    call map_device
    mov rbx, rax
    mov eax, [rbx]
    say "edu"
    mov dword ptr [rbx + 4], 0x12345678
    mov eax, [rbx + 4]
    say "inverted"
    # 2 MiB: the I/O APIC, and the HPET in the same leaf.
    lea rdi, [rip + first]
    mov esi, 2
    movabs rdx, 0xffffa00000000000
    mov ecx, IO_APIC + PRESENT + UNCACHED + LARGE
    call install_pte
    movabs rbx, 0xffffa00000000000
    mov dword ptr [rbx], 1
    mov eax, [rbx + 0x10]
    say "ioapic"
    mov eax, [rbx + 0x100004]
    say "hpet"
    # 1 GiB.
    lea rdi, [rip + first]
    mov esi, 3
    movabs rdx, 0xffffb00000000000
    movabs rcx, BEYOND + PRESENT + UNCACHED + LARGE
    call install_pte
    movabs rbx, 0xffffb00000000000
    movabs rax, 0x1122334455667788
    mov [rbx + 0x1000], rax
    mov rax, [rbx + 0x1000]
    say "far"
    # What CR2 holds stays, and what it is after a page fault of its own as well.
    movabs rax, 0xffffb00000001000
    mov eax, [rax]
    mov rax, cr2
    say "cr2"
    lea rax, [rip + 3f]
    mov [rip + fault_at], rax
    movabs rax, 0x7000000000
    mov eax, [rax]
3:  movabs rax, 0xffffb00000001008
    mov [rax], eax
    mov rax, cr2
    say "cr2 of its own"
    # A second set of page tables, which has the first one's RAM and maps a device elsewhere.
    call take
    mov [rip + second], rax
    lea rcx, [rip + low + PRESENT]
    mov [rax], rcx
    mov rdi, rax
    mov esi, 1
    movabs rdx, 0xffffc00000000000
    mov rcx, [rip + edu]
    or rcx, PRESENT + UNCACHED
    call install_pte
    mov rax, [rip + second]
.ifdef UNPACKS
    mov edx, ~0xc3d8220f        # mov cr3, rax; ret
    not edx
    mov [rip + unpacked], edx
    lea rdx, [rip + unpacked]
    call rdx
    mov rdi, [rip + entered]
    mov rax, [rdi]
    mov ecx, 0x10000000
14: cmp rax, [rdi]
    jne 15f
    loop 14b
15:
.else
    mov cr3, rax
.endif
    movabs rbx, 0xffffc00000000000
    mov eax, [rbx + 4]
    say "in the second tables"
    mov dword ptr [rbx + 4], 0xffff0000
    # There, a page of RAM becomes one of the device.
    mov rdi, [rip + second]
    mov esi, 1
    movabs rdx, 0xffffc00000001000
    lea rcx, [rip + scratch]
    and rcx, -4096
    or rcx, PRESENT
    call install_pte
    movabs rbx, 0xffffc00000001000
    mov eax, [rbx]
    mov rdi, [rip + second]
    mov esi, 1
    mov rdx, rbx
    mov rcx, [rip + buffer]
    or rcx, PRESENT + UNCACHED
    add rcx, 0x1000
    call install_pte
    invlpg [rbx]
    mov rax, [rbx]
    say "in place of RAM"
    # And back, where another page is mapped.
    lea rax, [rip + first]
    mov cr3, rax
    mov rdi, [rip + buffer]
    add rdi, 0x2000
    mov esi, 8192
    call map_device
    mov dword ptr [rax + 0x1ffc], 0x600d600d
    mov eax, [rax + 0x1ffc]
    say "in the first again"
    ret

.ifdef SLEEPS
sleep:
    lea rax, [rip + tick]
    lea rdi, [rip + idt + 32 * 16]
    mov word ptr [rdi], ax
    mov dword ptr [rdi + 2], 0x8e000008
    shr rax, 16
    mov word ptr [rdi + 6], ax
    mov al, 0xff                # no interrupt but the timer's
    out 0x21, al
    out 0xa1, al
    mov edi, 0xfee00000
    mov esi, 4096
    call map_device
    mov [rip + lapic], rax
    mov dword ptr [rax + 0xf0], 0x1ff
    mov dword ptr [rax + 0x3e0], 0xb
    mov dword ptr [rax + 0x320], 0x20020
    mov dword ptr [rax + 0x380], 20000000
13: sti
    hlt
    cli
    cmp qword ptr [rip + ticks], 300
    jb 13b
    mov rax, [rip + lapic]
    mov dword ptr [rax + 0x380], 0
    ret
tick:
    push rax
    inc qword ptr [rip + ticks]
    mov rax, [rip + lapic]
    mov dword ptr [rax + 0xb0], 0
    pop rax
    iretq
.endif

.ifdef TWO
.set BELOW, 0x8000              # where the other vCPU begins, in real mode
wake:
    lea rsi, [rip + trampoline]
    mov edi, BELOW
    mov ecx, offset trampoline_end - trampoline
    rep movsb
    mov edi, 0xfee00000
    mov esi, 4096
    call map_device
    mov dword ptr [rax + 0xf0], 0x1ff
    mov dword ptr [rax + 0x300], 0xc4500            # INIT, to all others
    mov dword ptr [rax + 0x300], 0xc4600 + BELOW / 4096
16: pause
    cmp qword ptr [rip + done], 0
    je 16b
    mov rax, [rip + done]
    say "by the other"
    ret
.code16
trampoline:
    cli
    lgdt cs:[gdt_below - trampoline]
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset first
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0x66, 0xea            # jmp 8:other
    .long other
    .word 8
gdt_below:
    .word gdt_pointer - gdt - 1
    .long gdt
trampoline_end:
.code64
other:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    lea rsp, [rip + stack_top - 4096]
    lidt [rip + idt_pointer]
    mov rdi, [rip + edu]
    mov esi, 4096
    call map_device
    mov ecx, [rax + 4]
    mov dword ptr [rax + 4], 0x0badcafe
    mov eax, [rax + 4]
    mov [rip + done], rax
17: hlt
    jmp 17b
.endif

# Maps RSI bytes from physical RDI on in the first tables; returns the linear address.
.type map_device, @function
map_device:
    push rbx
    push r12
    push r13
    mov r12, rdi
    lea r13, [rdi + rsi]
    mov rbx, [rip + next]
    push rbx
4:  lea rdi, [rip + first]
    mov esi, 1
    mov rdx, rbx
    mov rcx, r12
    or rcx, PRESENT + UNCACHED
    call install_pte
    add rbx, 4096
    add r12, 4096
    cmp r12, r13
    jb 4b
    mov [rip + next], rbx
    pop rax
    pop r13
    pop r12
    pop rbx
    ret

# Enters RCX at level RSI of the tables at RDI, for linear RDX; makes those in between.
.type install_pte, @function
install_pte:
    push rbx
    push r14
    mov r14d, 4
5:  mov rbx, rcx
    lea ecx, [r14 * 8 + r14]
    add ecx, 3                  # 12 + 9 * (level - 1)
    mov rax, rdx
    shr rax, cl
    mov rcx, rbx
    and eax, 511
    lea rbx, [rdi + rax * 8]
    cmp r14d, esi
    je 7f
    mov rax, [rbx]
    test al, 1
    jnz 6f
    call take
    or rax, PRESENT
    mov [rbx], rax
6:  and rax, -4096
    mov rdi, rax
    dec r14d
    jmp 5b
7:  mov [rbx], rcx
.ifdef UNPACKS
    mov [rip + entered], rbx
.endif
    pop r14
    pop rbx
    ret

# Returns a table of the pool, which is zero.
take:
    mov rax, [rip + free]
    add qword ptr [rip + free], 4096
    ret

# Prints the text at RSI, RAX in hexadecimal and a line feed.
report:
    push rbx
    push rax
    mov dx, SERIAL
8:  lodsb
    test al, al
    jz 9f
    out dx, al
    jmp 8b
9:  pop rbx
    mov ecx, 16
10: rol rbx, 4
    mov eax, ebx
    and eax, 15
    add al, '0'
    cmp al, '9'
    jbe 11f
    add al, 'a' - '0' - 10
11: out dx, al
    loop 10b
    mov al, 10
    out dx, al
    pop rbx
    ret

# The guest's own page faults: one is expected.
page_fault:
    push rax
    mov rax, [rip + fault_at]
    test rax, rax
    jz 12f
    mov [rsp + 16], rax
    mov qword ptr [rip + fault_at], 0
    pop rax
    add rsp, 8
    iretq
12: mov dx, EXIT
    mov al, 1
    out dx, al
    hlt

# Padding: room for a stub.
.ifdef UNPACKS
    .balign 4096, 0
room:
    .fill 4096, 1, 0
    .fill 4096, 1, 1
.else
    .balign 4096, 0xcc
    .fill 8192, 1, 0xcc
.endif
