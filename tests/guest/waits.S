# A program for the guest that waits for two devices: for a bit of the second dword of a page that a
# file begins with, such as a BAR's in sysfs, for some 40 ms, and then for one of port 0x64, for
# ever. It sleeps between two looks, and in one of four of those at the first it reads the page's
# first dword as well and writes its third. It exits with 2 where there is no such mapping or no right to
# the port.
#
#     waits FILE
#
# Ref: Linux arch/x86/entry/syscalls/syscall_64.tbl.

    .intel_syntax noprefix
    .include "map.S"
    .set NANOSLEEP, 35
    .set EXIT, 60
    .set IOPERM, 173
    .set PORT, 0x64

    .text
    .globl _start
_start:
    map_file
    test rax, rax
    js wrong
    mov rbp, rax

    mov r12d, 40
memory:
    mov eax, [rbp + 4]
    test eax, 1
    jnz port
    test r12d, 6
    jnz rest
    mov ecx, [rbp]
    mov dword ptr [rbp + 8], 0
rest:
    call pause
    dec r12d
    jnz memory

port:
    mov eax, IOPERM
    mov edi, PORT
    mov esi, 1
    mov edx, 1
    syscall
    test eax, eax
    jnz wrong
again:
    call pause
    call status
    and eax, 0x21
    cmp eax, 0x20
    jne again
    xor edi, edi
    jmp leave
wrong:
    mov edi, 2
leave:
    mov eax, EXIT
    syscall

status:
    in al, PORT
    movzx eax, al
    ret

pause:
    mov eax, NANOSLEEP
    lea rdi, [rip + time]
    xor esi, esi
    syscall
    ret

    .section .rodata
time:
    .quad 0, 1000000
