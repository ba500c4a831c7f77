# A program for a Linux guest: maps device memory and lets the kernel handle the mapping in every way
# it has. Each line it prints names what was done and shows the value that came of it, so that two
# runs can be compared.
#
#   DEVICE   physical address of two pages of device memory that keep what they are given
#
# Ref: Linux arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/mman-common.h.

.intel_syntax noprefix

.set READ, 0
.set WRITE, 1
.set OPEN, 2
.set MMAP, 9
.set MPROTECT, 10
.set MUNMAP, 11
.set PREAD, 17
.set PWRITE, 18
.set MREMAP, 25
.set NANOSLEEP, 35
.set FORK, 57
.set EXIT, 60
.set WAIT, 61

.set SIZE, 0x2000
.set ELSEWHERE, 0x7000000000

.macro system number
    mov eax, \number
    syscall
.endm

# Prints \text and a register.
.macro say text, value
    .pushsection .rodata
7770: .asciz "mapper: \text "
    .popsection
    mov rdi, \value
    lea rsi, [rip + 7770b]
    call report
.endm

.macro open path, flags
    lea rdi, [rip + \path]
    mov esi, \flags
    xor edx, edx
    system OPEN
.endm

# Maps DEVICE; R13 is where.
.macro map
    xor edi, edi
    mov esi, SIZE
    mov edx, 3                  # read and write
    mov r10d, 1                 # shared
    mov r8, r12
    mov r9d, DEVICE
    system MMAP
    mov r13, rax
.endm

# Changes what may be done with the mapping: 0 nothing, 1 read, 3 read and write.
.macro protect rights, size=SIZE
    mov rdi, r13
    mov esi, \size
    mov edx, \rights
    system MPROTECT
    say "mprotect \rights", rax
.endm

# Reads \offset of the mapping as a debugger does.
.macro peek text, offset
    mov rdi, r14
    lea rsi, [rip + buffer]
    mov edx, 4
    lea r10, [r13 + \offset]
    mov dword ptr [rsi], 0
    system PREAD
    say "\text", rax
    mov eax, [rip + buffer]
    say "\text value", rax
.endm

.macro load text, offset
    mov eax, [r13 + \offset]
    say "\text", rax
.endm

.data
digits: .ascii "0123456789abcdef"
device: .asciz "/dev/mem"
memory: .asciz "/proc/self/mem"
    .balign 8
buffer: .quad 0
moment: .quad 0, 200000000      # seconds, nanoseconds
line:   .skip 17

.text
.global _start
_start:
    open device, 0x101002       # read and write, synchronous: not cached
    mov r12, rax
    open memory, 2
    mov r14, rax
    map
    mov dword ptr [r13], 0xcafe0001
    load "direct", 0
    peek "pread", 0
    mov dword ptr [rip + buffer], 0x13572468
    mov rdi, r14
    lea rsi, [rip + buffer]
    mov edx, 4
    lea r10, [r13 + 0x1004]
    system PWRITE
    say "pwrite", rax
    load "written", 0x1004

    protect 1
    load "read only", 0
    peek "pread of read only", 0
    protect 0
    peek "pread of nothing", 0
    protect 3
    mov dword ptr [r13 + 8], 0x600d0002
    load "again", 8

    system FORK
    test eax, eax
    jnz parent
    # The kernel's file is of the parent.
    open memory, 2
    mov r14, rax
    load "child", 8
    peek "child's pread", 0
    protect 1
    protect 3
    mov dword ptr [r13 + 12], 0x600d0003
    load "child's own", 12
    mov edi, 7
    system EXIT
parent:
    mov edi, -1
    lea rsi, [rip + buffer]
    xor edx, edx
    xor r10d, r10d
    mov qword ptr [rsi], 0
    system WAIT
    mov rax, [rip + buffer]
    say "child ended", rax
    load "the child's", 12

    mov rdi, r13
    mov esi, SIZE
    mov edx, SIZE
    mov r10d, 3                 # may move, to the address given
    movabs r8, ELSEWHERE
    system MREMAP
    mov r13, rax
    say "mremap", r13
    load "moved", 0
    peek "pread of moved", 0x1004
    mov rdi, r13
    mov esi, SIZE
    system MUNMAP
    say "munmap", rax

    # What is left goes with the program, in two parts.
    map
    protect 1, 0x1000
    load "mapped again", 0
    load "its second page", 0x1004

    # Two programs that both have it; the child looks at it last.
    system FORK
    test eax, eax
    jnz elder
    lea rdi, [rip + moment]
    xor esi, esi
    system NANOSLEEP
    load "younger", 0x1004
    mov edi, 8
    system EXIT
elder:
    load "elder", 0x1008
    mov edi, -1
    lea rsi, [rip + buffer]
    xor edx, edx
    xor r10d, r10d
    mov qword ptr [rsi], 0
    system WAIT
    mov rax, [rip + buffer]
    say "younger ended", rax
    say "done", r12
    xor edi, edi
    system EXIT

# Prints the text at RSI, RDI in hexadecimal and a line feed, all registers but RAX kept.
report:
    push rcx
    push rdx
    push r11
    push rbx
    push rdi
    push rsi
    push rdi
    mov rdx, rsi
1:  inc rdx
    cmp byte ptr [rdx - 1], 0
    jne 1b
    sub rdx, rsi
    dec rdx
    mov edi, 1
    system WRITE
    pop rdi
    lea rsi, [rip + line]
    lea rdx, [rip + digits]
    mov ecx, 16
2:  mov ebx, edi
    and ebx, 15
    mov bl, [rdx + rbx]
    mov [rsi + rcx - 1], bl
    shr rdi, 4
    loop 2b
    mov byte ptr [rsi + 16], 10
    mov edx, 17
    mov edi, 1
    system WRITE
    pop rsi
    pop rdi
    pop rbx
    pop r11
    pop rdx
    pop rcx
    ret
