# A program of user space that reaches device memory with every width, at any offset.
#
#     probe NUMBER BASE
#
# maps 12 KiB of physical memory at BASE (0x...) and carries out table NUMBER (a digit) of
# `tables.S`, made by the test: `tables` has a pointer and a count for each; an entry is 16 bytes:
#
#   0  offset, 4 bytes
#   4  kind, a byte: 0 to 3 loads 1, 2, 4, 8 bytes, 4 to 7 stores them
#   8  value to store
#
# What is loaded is printed, 16 hexadecimal digits a line.
# Ref: x86-64 psABI 3.4.1 (the stack at the start); Linux arch/x86/entry/syscalls/syscall_64.tbl.

.intel_syntax noprefix
.set SIZE, 12288
.set READ_WRITE, 3
.set SHARED, 1
.set O_RDWR_SYNC, 0x101002

.data
path: .asciz "/dev/mem"
.include "tables.S"

.bss
text: .skip 1 << 18

.text
.global _start
_start:
    mov rax, [rsp + 16]
    movzx ebx, byte ptr [rax]
    sub ebx, '0'
    mov rsi, [rsp + 24]
    add rsi, 2                  # behind 0x
    xor ebp, ebp
1:  movzx eax, byte ptr [rsi]
    test al, al
    jz 3f
    or al, 0x20
    sub al, '0'
    cmp al, 9
    jbe 2f
    sub al, 'a' - '0' - 10
2:  shl rbp, 4
    or rbp, rax
    inc rsi
    jmp 1b
3:  mov eax, 2                  # open
    lea rdi, [rip + path]
    mov esi, O_RDWR_SYNC
    syscall
    mov r8, rax
    mov eax, 9                  # mmap
    xor edi, edi
    mov esi, SIZE
    mov edx, READ_WRITE
    mov r10d, SHARED
    mov r9, rbp
    syscall
    mov edi, 1
    test rax, rax
    js exit
    mov r12, rax
    lea rax, [rip + tables]
    shl ebx, 4
    mov r14, [rax + rbx]
    mov r15, [rax + rbx + 8]
    lea r13, [rip + text]
next:
    mov edi, [r14]
    add rdi, r12
    mov rcx, [r14 + 8]
    movzx edx, byte ptr [r14 + 4]
    xor eax, eax
    lea rbx, [rip + accesses]
    lea rbx, [rbx + rdx * 8]
    jmp rbx

    .balign 8
accesses:
    mov al, [rdi]
    jmp loaded
    .balign 8
    mov ax, [rdi]
    jmp loaded
    .balign 8
    mov eax, [rdi]
    jmp loaded
    .balign 8
    mov rax, [rdi]
    jmp loaded
    .balign 8
    mov [rdi], cl
    jmp stored
    .balign 8
    mov [rdi], cx
    jmp stored
    .balign 8
    mov [rdi], ecx
    jmp stored
    .balign 8
    mov [rdi], rcx
    jmp stored

loaded:
    mov ecx, 16
4:  rol rax, 4
    mov edx, eax
    and edx, 15
    cmp edx, 10
    jb 5f
    add edx, 'a' - '0' - 10
5:  add edx, '0'
    mov [r13], dl
    inc r13
    dec ecx
    jnz 4b
    mov byte ptr [r13], '\n'
    inc r13
stored:
    add r14, 16
    dec r15
    jnz next
    lea rsi, [rip + text]
6:  mov eax, 1                  # write
    mov edi, 1
    mov rdx, r13
    sub rdx, rsi
    jz 7f
    syscall
    test rax, rax
    js exit
    add rsi, rax
    jmp 6b
7:  xor edi, edi
exit:
    mov eax, 60                 # exit
    syscall
