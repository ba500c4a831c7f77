# A program for a Linux guest: ends QEMU by a write to its isa-debug-exit device.
#
#   PORT    where the device is
#   VALUE   what is written: the exit status is twice that, and one
#
# Ref: QEMU hw/misc/debugexit.c; Linux arch/x86/entry/syscalls/syscall_64.tbl.

.intel_syntax noprefix

.set IOPL, 172

.globl _start
_start:
    mov edi, 3
    mov eax, IOPL
    syscall
    mov edx, PORT
    mov eax, VALUE
    out dx, eax
1:  jmp 1b
