# A program that asks for the hypervisor's first leaf of CPUID, and with an argument reads a port.
.intel_syntax noprefix
.globl _start
_start:
	cmp	qword ptr [rsp], 1
	ja	port
	mov	eax, 0x40000000
	xor	ecx, ecx
	cpuid
	mov	edi, 3
	cmp	ebx, 0x54474354			# TCGT
	je	exit
	mov	edi, 4
exit:	mov	eax, 60
	syscall
port:	mov	eax, 172			# iopl
	mov	edi, 3
	syscall
	in	al, 0x61
	mov	edi, 5
	jmp	exit
