# A program for a Linux guest: powers it off by one write to a register in memory, with an
# instruction that the emulator leaves to the vCPU (MASKMOVDQU), or with INS from the CMOS.
#
#   REGISTER   physical address of the register
#   VALUE      the byte that powers the machine off
#   PORTS      how INS may use a port: 1 by IOPL, 2 by the bitmap of the TSS, 3 not at all.
#              MASKMOVDQU: 0
#
# Ref: Linux arch/x86/entry/syscalls/syscall_64.tbl; QEMU hw/rtc/mc146818rtc.c: the CMOS gives back
# what was written to it.

.intel_syntax noprefix

.set OPEN, 2
.set MMAP, 9
.set EXIT, 60
.set IOPL, 172
.set IOPERM, 173

.macro system number
    mov eax, \number
    syscall
.endm

.globl _start
_start:
    lea rdi, [rip + memory]
    mov esi, 2 | 0x101000       # O_RDWR, O_SYNC
    xor edx, edx
    system OPEN
    mov r8, rax
    xor edi, edi
    mov esi, 0x1000
    mov edx, 3                  # read and write
    mov r10d, 1                 # shared
    mov r9d, REGISTER & ~0xfff
    system MMAP
    mov r13, rax
    lea rdi, [r13 + (REGISTER & 0xfff)]
.if PORTS == 0
    mov eax, VALUE
    movd xmm0, eax
    mov eax, 0x80               # the lowest byte alone
    movd xmm1, eax
    maskmovdqu xmm0, xmm1
.else
    mov edi, 0x70
    mov esi, 2
    mov edx, 1
    system IOPERM
.if PORTS == 1
    mov edi, 0x70
    mov esi, 2
    xor edx, edx
    system IOPERM
    mov edi, 3
    system IOPL
.endif
    mov al, 0x40                # a byte of the CMOS that nobody uses
    out 0x70, al
    mov al, VALUE
    out 0x71, al
    mov al, 0x40
    out 0x70, al
.if PORTS == 3
    mov edi, 0x70
    mov esi, 2
    xor edx, edx
    system IOPERM
.endif
    lea rdi, [r13 + (REGISTER & 0xfff)]
    mov edx, 0x71
    insb
.endif
    mov edi, 1
    system EXIT

.section .rodata
memory: .asciz "/dev/mem"
