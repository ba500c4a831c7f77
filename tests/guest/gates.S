# What the cases of vector 14 need beside guest.S: other handlers, another IDT, and macros.

.section .data
    .balign 16
idt_2:          .fill 15 * 16, 1, 0
idt_2_pointer:
    .word 15 * 16 - 1
    .quad idt_2
    .balign 8
handled_by:     .quad 0

.text
page_fault_2:
    mov qword ptr [rip + handled_by], 2
    jmp page_fault

# In another 64 KiB than the other handlers and the stub.
.section .data
    .balign 0x10000
    .fill 0x10000, 1, 0x90
page_fault_3:
    mov qword ptr [rip + handled_by], 3
    jmp page_fault
.text

# An undefined instruction: on behind it (UD2 has two bytes).
undefined:
    add qword ptr [rsp], 2
    mov qword ptr [rip + handled_by], 6
    iretq

# RSI points to the gate.
.macro at_gate table=idt, vector=14
    lea rsi, [rip + \table + \vector * 16]
.endm

# The gate at RSI, field by field.
.macro fields handler
    lea rax, [rip + \handler]
    mov word ptr [rsi], ax
    mov word ptr [rsi + 2], 8
    mov word ptr [rsi + 4], 0x8e00
    shr rax, 16
    mov word ptr [rsi + 6], ax
    shr rax, 16
    mov dword ptr [rsi + 8], eax
    mov dword ptr [rsi + 12], 0
.endm

# The same in two halves, as a copy of a structure is made.
.macro halves handler
    lea rax, [rip + \handler]
    mov rdx, rax
    shr rdx, 32
    mov ecx, eax
    and eax, 0xffff
    and ecx, 0xffff0000
    shl rcx, 32
    or rax, rcx
    movabs rcx, 0x8e0000080000
    or rax, rcx
    mov [rsi], rax
    mov [rsi + 8], rdx
.endm

# A page fault of the guest's own; RBX tells which handler had it.
.macro own_fault
    mov qword ptr [rip + handled_by], 1
    lea rax, [rip + 7770f]
    mov [rip + resume_at], rax
    movabs rax, [NOTHING]
7770:
    mov rbx, [rip + handled_by]
.endm
