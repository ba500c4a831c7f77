# Maps the page that a file begins with, whose name is the first argument of the program: `map_file`,
# at its start. RAX is the linear address then, and negative where there is no such mapping.
#
# Ref: x86-64 psABI 3.4.1 (the stack at the start); Linux arch/x86/entry/syscalls/syscall_64.tbl.

    .set OPEN, 2
    .set MMAP, 9
    .set O_RDWR_SYNC, 0x101002
    .set PROT_READ_WRITE, 3
    .set MAP_SHARED, 1

    .macro map_file
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
    .endm
