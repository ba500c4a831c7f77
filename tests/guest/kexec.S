# A program for a Linux guest that starts another kernel: /kernel with /second as its initramfs, in
# which this program is /init, and powers off.
#
# Ref: kexec_file_load(2), reboot(2); Linux arch/x86/entry/syscalls/syscall_64.tbl.

.intel_syntax noprefix

.set WRITE, 1
.set OPEN, 2
.set GETPID, 39
.set REBOOT, 169
.set KEXEC_FILE_LOAD, 320
.set START_IT, 0x45584543       # LINUX_REBOOT_CMD_KEXEC
.set POWER_OFF, 0x4321fedc      # LINUX_REBOOT_CMD_POWER_OFF

.macro system number
    mov eax, \number
    syscall
.endm

.section .rodata
kernel:  .asciz "/kernel"
second:  .asciz "/second"
words:   .asciz "console=ttyS0 panic=-1 nokaslr"
.set words_size, . - words
hello:   .ascii "another kernel has started\n"
.set hello_size, . - hello

.text
.global _start
_start:
    system GETPID
    cmp eax, 1
    je started
    lea rdi, [rip + kernel]
    xor esi, esi
    xor edx, edx
    system OPEN
    mov r12, rax
    lea rdi, [rip + second]
    xor esi, esi
    xor edx, edx
    system OPEN
    mov rsi, rax
    mov rdi, r12
    mov edx, words_size
    lea r10, [rip + words]
    xor r8d, r8d
    system KEXEC_FILE_LOAD
    mov edx, START_IT
    jmp reboot
started:
    mov edi, 1
    lea rsi, [rip + hello]
    mov edx, hello_size
    system WRITE
    mov edx, POWER_OFF
reboot:
    mov edi, 0xfee1dead
    mov esi, 0x28121969
    system REBOOT
1:  jmp 1b
