# What the cases of interrupts need beside guest.S: an IDT with room for them, and macros.

.set LAPIC, 0xfee00000
.set EOI, 0xb0                  # from there, which is in R10
.set PRIORITY, 0x80
.set SELF, 0x41
.set TIMER, 0xf0
.set ROUNDS, 700

.bss
    .balign 16
wide:           .skip 256 * 16
selves:         .skip 8         # how often each was taken
timers:         .skip 8
lines:          .skip 8
wrong:          .skip 8
again:          .skip 8         # where the handler goes on

.section .data
wide_pointer:
    .word 256 * 16 - 1
    .quad wide

.text
timer:
    inc qword ptr [rip + timers]
    mov dword ptr [r10 + EOI], 0
    iretq

# The other one may be due by now. It is waited for in a way of each case's own; RBX counts rounds.
self:
    inc qword ptr [rip + selves]
    mov dword ptr [r10 + EOI], 0
    jmp [rip + again]

by_return:
    iretq
by_halt:
    cli
    cmp [rip + timers], rbx
    ja 1f
    sti
    hlt
    jmp by_halt
1:  iretq
by_pause:
    sti
    cmp [rip + timers], rbx
    ja 1f
    pause
    jmp by_pause
1:  iretq
by_monitor:
    cli
    lea rax, [rip + timers]
    xor ecx, ecx
    xor edx, edx
    monitor
    cmp [rip + timers], rbx
    ja 1f
    sti
    mwait
    jmp by_monitor
1:  iretq
by_syscall:
    sti
    syscall
called:
    cmp [rip + timers], rbx
    jna called
    iretq
by_priority:
    mov eax, 15
    mov cr8, rax
    mov edx, [r10 + PRIORITY]
    xor edx, 0xf0
    or [rip + wrong], rdx
    sti
    nop
    mov rcx, cr8
    xor rcx, 15
    or [rip + wrong], rcx
    cli
    xor eax, eax
    mov cr8, rax
    iretq

# IRQ 5 by the 8259, whose vector is that of #GP.
line:
    inc qword ptr [rip + lines]
    mov dx, 0x2ea               # whose it is: the UART withdraws it
    in al, dx
    mov al, 0x20
    out 0x20, al
    iretq

.macro wide_gate number, handler
    lea rax, [rip + \handler]
    lea rsi, [rip + wide + \number * 16]
    mov word ptr [rsi], ax
    mov dword ptr [rsi + 2], 0x8e000008
    shr rax, 16
    mov word ptr [rsi + 6], ax
    shr rax, 16
    mov dword ptr [rsi + 8], eax
.endm

.macro widen
    mov al, 0xff                # the 8259s are quiet
    out 0x21, al
    out 0xa1, al
    mov r10d, LAPIC
    lea rsi, [rip + idt]
    lea rdi, [rip + wide]
    mov ecx, 15 * 16 / 8
    rep movsq
    wide_gate SELF, self
    wide_gate TIMER, timer
    lidt [rip + wide_pointer]
    mov dword ptr [r10 + 0xf0], 0x1ff         # on
    mov dword ptr [r10 + 0x320], TIMER        # one shot
    mov dword ptr [r10 + 0x3e0], 0xb          # by 1: nanoseconds
.endm

# Two interrupts, of which the second one comes later by a little more in each round, at any point of
# what the first one takes. RAX is 0 where both have always come.
.macro race way
    widen
    lea rax, [rip + \way]
    mov [rip + again], rax
    mov qword ptr [rip + selves], 0
    mov qword ptr [rip + timers], 0
    mov qword ptr [rip + wrong], 0
    xor ebx, ebx
    sti
1:  lea eax, [rbx + rbx + 1]
    mov dword ptr [r10 + 0x380], eax
    mov dword ptr [r10 + 0x300], 0x40000 + SELF
2:  cmp [rip + timers], rbx
    jna 2b
3:  cmp [rip + selves], rbx
    jna 3b
    inc ebx
    cmp ebx, ROUNDS
    jne 1b
    cli
    mov rax, [rip + selves]
    xor rax, rbx
    mov rcx, [rip + timers]
    xor rcx, rbx
    or rax, rcx
    or rax, [rip + wrong]
    lidt [rip + idt_pointer]
.endm

# A UART whose transmitter is empty says so.
.macro by_line
    widen
    wide_gate 13, line
    mov al, 0x11
    out 0x20, al
    mov al, 8                   # vectors from 8 on
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xdf                # IRQ 5 alone
    out 0x21, al
    mov qword ptr [rip + lines], 0
    sti
    mov dx, 0x2ec
    mov al, 8                   # OUT2: the line is connected
    out dx, al
    mov dx, 0x2e9
    mov al, 2
    out dx, al
    mov ecx, 100
1:  loop 1b
    cli
    xor eax, eax
    out dx, al
    mov al, 0xff
    out 0x21, al
    mov rax, [rip + lines]
    lidt [rip + idt_pointer]
.endm
