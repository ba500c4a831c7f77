# A program for the guest: maps the page at a physical address once, and reads its first dword for
# each byte that comes in, in hexadecimal.
#
#     peek ADDRESS      (hexadecimal, 0x is optional)

    .intel_syntax noprefix
    .set READ, 0
    .set WRITE, 1
    .set OPEN, 2
    .set MMAP, 9
    .set EXIT, 60
    .set O_RDWR_SYNC, 0x101002
    .set PROT_READ_WRITE, 3
    .set MAP_SHARED, 1

    .text
    .globl _start
_start:
    mov rsi, [rsp + 16]         # argv[1]
    xor r8d, r8d
digit:
    movzx eax, byte ptr [rsi]
    inc rsi
    test al, al
    jz map
    cmp al, 'x'
    je digit
    or al, 0x20
    sub al, '0'
    cmp al, 9
    jbe 1f
    sub al, 'a' - '0' - 10
1:  shl r8, 4
    or r8, rax
    jmp digit

map:
    mov r12, r8
    mov eax, OPEN
    lea rdi, [rip + memory]
    mov esi, O_RDWR_SYNC
    syscall
    mov r8, rax
    mov r9, r12
    mov eax, MMAP
    xor edi, edi
    mov esi, 0x1000
    mov edx, PROT_READ_WRITE
    mov r10d, MAP_SHARED
    syscall
    mov rbx, rax

wait:
    mov eax, READ
    xor edi, edi
    lea rsi, [rip + text]
    mov edx, 1
    syscall
    cmp rax, 1
    jne leave
    mov ebp, [rbx]
    lea rdi, [rip + text]
    mov ecx, 8
1:  rol ebp, 4
    mov eax, ebp
    and eax, 0xf
    add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 'a' - '0' - 10
2:  stosb
    loop 1b
    mov byte ptr [rdi], '\n'
    mov eax, WRITE
    mov edi, 1
    lea rsi, [rip + text]
    mov edx, 9
    syscall
    jmp wait

leave:
    mov eax, EXIT
    xor edi, edi
    syscall

    .data
memory:
    .asciz "/dev/mem"
    .bss
text:
    .skip 16
