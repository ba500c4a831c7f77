# A program that asks for the hypervisor's first leaf of CPUID, reads the signature of QEMU's fw_cfg as
# a string, and writes it to a port as one.
.intel_syntax noprefix
.globl _start
_start:
	mov	eax, 173			# ioperm: Linux looks at its bitmap (vc_ioio_check)
	mov	edi, 0x80
	mov	esi, 1
	mov	edx, 1
	syscall
	mov	eax, 173
	mov	edi, 0x510
	mov	esi, 2
	mov	edx, 1
	syscall
	mov	eax, 0x40000000
	xor	ecx, ecx
	cpuid
	mov	edi, 4
	cmp	ebx, 0x54474354			# TCGT
	jne	exit
	mov	qword ptr [rip + text], rax	# Linux's handler loses what it cannot put down at once
	mov	edx, 0x510
	xor	eax, eax
	out	dx, ax
	mov	edx, 0x511
	lea	rdi, [rip + text]
	mov	ecx, 4
	cld
	rep insb
	mov	edi, 5
	cmp	dword ptr [rip + text], 0x554d4551	# QEMU
	jne	exit
	mov	edx, 0x80
	lea	rsi, [rip + text]
	mov	ecx, 4
	rep outsb
	mov	edi, 7
	test	ecx, ecx
	jnz	exit
	mov	edi, 3
exit:	mov	eax, 60
	syscall
	.data
text:	.quad	0
