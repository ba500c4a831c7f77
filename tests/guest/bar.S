# A program for the guest: maps the page that a file begins with, such as a BAR's in sysfs, and
# reads its first dword. It exits with 0, with 2 where there is no such mapping.
#
#     bar FILE
#
# Ref: x86-64 psABI 3.4.1 (the stack at the start); Linux arch/x86/entry/syscalls/syscall_64.tbl.

    .intel_syntax noprefix
    .set OPEN, 2
    .set MMAP, 9
    .set EXIT, 60
    .set O_RDWR_SYNC, 0x101002
    .set PROT_READ_WRITE, 3
    .set MAP_SHARED, 1

    .text
    .globl _start
_start:
    mov eax, OPEN
    mov rdi, [rsp + 16]         # argv[1]
    mov esi, O_RDWR_SYNC
    syscall
    mov r8, rax
    mov eax, MMAP
    xor edi, edi
    mov esi, 0x1000
    mov edx, PROT_READ_WRITE
    mov r10d, MAP_SHARED
    xor r9d, r9d
    syscall
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
