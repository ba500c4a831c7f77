# A program for the guest: maps the page that a file begins with, such as a BAR's in sysfs, and
# reads its first dword. It exits with 0, with 2 where there is no such mapping.
#
#     bar FILE
#
# Ref: Linux arch/x86/entry/syscalls/syscall_64.tbl.

    .intel_syntax noprefix
    .include "map.S"
    .set EXIT, 60

    .text
    .globl _start
_start:
    map_file
    mov edi, 2
    test rax, rax
    js leave
    .globl access
access:
    mov eax, [rax]
    xor edi, edi
leave:
    mov eax, EXIT
    syscall
