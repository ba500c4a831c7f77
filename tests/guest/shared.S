# A program for the guest: works in a page that has RAM and, from offset 0x800 on, the registers of
# QEMU's ivshmem, and says in one line what it found. The RAM takes code and a stack as well.
#
#     shared ADDRESS      (hexadecimal, 0x is optional)

    .intel_syntax noprefix
    .set WRITE, 1
    .set OPEN, 2
    .set MMAP, 9
    .set EXIT, 60
    .set O_RDWR_SYNC, 0x101002
    .set PROT_ALL, 7
    .set MAP_SHARED, 1
    .set DEVICE, 0x800          # INTRMASK, 4 bytes, keeps what is written
    .set VALUE, 0x1122334455667788

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
    mov edx, PROT_ALL
    mov r10d, MAP_SHARED
    syscall
    mov rbx, rax

    # Counts in R15 what is not as it should be.
    .macro same register, value
    mov rax, \value
    cmp \register, rax
    setne al
    movzx eax, al
    add r15, rax
    .endm

    xor r15d, r15d
    movabs rcx, VALUE
    # RAM, in every width and unaligned.
    mov [rbx], rcx
    mov rdx, [rbx]
    same rdx, VALUE
    mov edx, [rbx + 2]
    same rdx, 0x33445566
    mov [rbx + 9], cl
    movzx edx, word ptr [rbx + 9]
    same rdx, 0x88
    mov [rbx + 0x11], rcx
    movdqu xmm0, [rbx + 0x11]
    movq rdx, xmm0
    same rdx, VALUE
    # Atomic ones.
    mov qword ptr [rbx + 0x40], 5
    mov edx, 3
    lock xadd [rbx + 0x40], rdx
    same rdx, 5
    mov eax, 8
    mov edx, 9
    lock cmpxchg [rbx + 0x40], rdx
    xchg rdx, [rbx + 0x40]
    same rdx, 9
    # What is copied within the page.
    mov rsi, rbx
    lea rdi, [rbx + 0x400]
    mov ecx, 0x48
    rep movsb
    mov rdx, [rbx + 0x411]
    same rdx, VALUE
    # The registers, and what lies over their beginning.
    mov dword ptr [rbx + DEVICE], 0x5a
    mov edx, [rbx + DEVICE]
    same rdx, 0x5a
    mov dword ptr [rbx + DEVICE - 4], 0x77
    mov rdx, [rbx + DEVICE - 4]
    same rdx, 0x5a00000077
    # A stack.
    mov r14, rsp
    lea rsp, [rbx + 0x200]
    push rdi
    call pushed
pushed:
    pop rdx
    pop rcx
    mov rsp, r14
    cmp rcx, rdi
    setne al
    movzx eax, al
    add r15, rax
    # Code that reads the registers beside it.
    lea rsi, [rip + code]
    lea rdi, [rbx + 0x100]
    mov ecx, code_end - code
    rep movsb
    lea rax, [rbx + 0x100]
    call rax
    same rdx, 0x5a

    mov rax, r15
    add al, '0'
    lea rdi, [rip + said]
    mov [rdi + 12], al
    mov eax, WRITE
    mov rsi, rdi
    mov edi, 1
    mov edx, 14
    syscall
    mov eax, EXIT
    xor edi, edi
    syscall

code:
    mov edx, [rbx + DEVICE]
    nop
    ret
code_end:

    .data
memory:
    .asciz "/dev/mem"
said:
    .ascii "differences ?\n"
