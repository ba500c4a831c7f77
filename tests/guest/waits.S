# A program for the guest that waits for two devices: for a bit of the second dword of a page that a
# file begins with, such as a BAR's in sysfs, for some 40 ms, and then for one of port 0x64, for
# ever. It sleeps between two looks. It exits with 2 where there is no such mapping or no right to
# the port.
#
#     waits FILE
#
# Ref: x86-64 psABI 3.4.1 (the stack at the start); Linux arch/x86/entry/syscalls/syscall_64.tbl.

    .intel_syntax noprefix
    .set OPEN, 2
    .set MMAP, 9
    .set NANOSLEEP, 35
    .set EXIT, 60
    .set IOPERM, 173
    .set O_RDWR_SYNC, 0x101002
    .set PROT_READ_WRITE, 3
    .set MAP_SHARED, 1
    .set PORT, 0x64

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
    test rax, rax
    js wrong
    mov rbp, rax

    mov r12d, 40
memory:
    mov eax, [rbp + 4]
    test eax, 1
    jnz port
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
