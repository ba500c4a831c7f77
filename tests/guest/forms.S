# Parts beside guest.S for the cases of instruction forms: an instruction is run on the device and on
# RAM, and what it left behind is compared. With ROOM the first run on the device goes before, by a
# stop, so that the next one is by itself, and all is done again with every exception of x87 and SSE
# unmasked.

.bss
    .balign 64
on_ram:      .skip 768          # RAX, RCX, RDX, RBX, flags, RDI, RSI, memory, YMM; FXSAVE at 192
on_device:   .skip 768
elsewhere:   .skip 64
given_rcx:   .skip 8
given_rdx:   .skip 8
target:      .skip 8
mxcsr:       .skip 4
masks:       .skip 4

.section .rodata
    .balign 32
vectors:
    .quad 0x8001807f00ff0102, 0x7f80ffff00000003, 0xf0e0d0c0b0a09080, 0x0123456789abcdef
    .quad 0xcdab896745230181, 0x131276985432dc7e, 0x8000000080000000, 0x00000000ffffffff
    .quad 0x0000000000000007, 0x7ff0000000000001, 0x1122334480556677, 0x8899aabbccddeeff

.text
# R13: the instruction and RET; R10: flags before, R12: those to compare; RCX, RDX: before. Returns
# in RAX what differs.
compare:
    mov [rip + given_rcx], rcx
    mov [rip + given_rdx], rdx
    mov dword ptr [rip + mxcsr], 0x1f80
    mov dword ptr [rip + masks], 0x37f
.ifdef ROOM
    call on_the_device
    call on_both
    push rax
    mov dword ptr [rip + mxcsr], 0
    mov dword ptr [rip + masks], 0x340
    call on_both
    pop rcx
    or rax, rcx
    ret
.endif
on_both:
    call on_the_device
    lea rdi, [rip + buffer]
    lea r11, [rip + on_ram]
    call run
    xor eax, eax
    xor ecx, ecx
1:  mov rdx, [r11 + rcx]
    lea r9, [rip + on_device]
    xor rdx, [r9 + rcx]
    or rax, rdx
    add ecx, 8
    cmp ecx, 704
    jne 1b
    ret
on_the_device:
    movabs rdi, offset DEVICE + SLOT_SIZE
    lea r11, [rip + on_device]

# RDI: where, R11: what takes the result.
run:
    mov [rip + target], rdi
    movabs rax, 0x0123456789abcd81
    mov [rdi], rax
    movabs rax, 0x7ff0dcba98763213
    mov [rdi + 8], rax
    vmovdqu ymm0, [rip + vectors]
    vmovdqu [rdi + 16], xmm0
    vmovdqu ymm1, [rip + vectors + 32]
    vmovdqu ymm2, [rip + vectors + 64]
    fninit
    movq mm1, [rip + vectors + 40]
    emms
    fldpi
    fld1
    ldmxcsr [rip + mxcsr]
    fldcw [rip + masks]
    lea rsi, [rdi + 8]
    movabs rbx, 0x5a5a5a5aa5a5a5a5
    mov rcx, [rip + given_rcx]
    mov rdx, [rip + given_rdx]
    mov eax, 5
    push r10
    popfq
    call r13
    pushfq
    pop r8
    and r8, r12
    cld
    fxsave64 [r11 + 192]
    fnclex
    # The last x87 instruction and its operand have other addresses on RAM.
    mov r9, [r11 + 192]
    shl r9, 16
    mov [r11 + 192], r9
    mov qword ptr [r11 + 200], 0
    mov qword ptr [r11 + 208], 0
    mov [r11], rax
    mov [r11 + 8], rcx
    mov [r11 + 16], rdx
    mov [r11 + 24], rbx
    mov [r11 + 32], r8
    mov rax, [rip + target]
    sub rdi, rax
    mov [r11 + 40], rdi
    sub rsi, rax
    mov [r11 + 48], rsi
    mov rdx, [rax]
    mov [r11 + 56], rdx
    mov rdx, [rax + 8]
    mov [r11 + 64], rdx
    mov rdx, [rax + 16]
    mov [r11 + 72], rdx
    mov rdx, [rax + 24]
    mov [r11 + 80], rdx
    vmovdqu [r11 + 88], ymm1
    vmovdqu [r11 + 120], ymm2
    vmovdqu [r11 + 152], ymm0
    ret
