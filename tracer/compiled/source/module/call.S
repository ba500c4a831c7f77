# TDCALL: what a trust domain asks its host for.

tdcall:	push	TDCALL
	save
	test	dword ptr [rbp + F_RFLAGS], TF
	jnz	slow
	cmp	rax, VEINFO_GET
	je	veinfo
	or	rax, r10
	jnz	slow
	# RCX says which registers the host sees: those that have an operand, and none that no host may.
	mov	rax, [rbp + F_RCX]
	test	rax, ~EXPOSABLE
	jnz	slow
	not	eax
	test	eax, EXPOSED
	jnz	slow
	cmp	r11, VE_CPUID
	je	input
	lea	rax, [r11 - VE_IO]
	cmp	rax, VE_WRMSR - VE_IO
	jbe	input
	cmp	qword ptr [rip + start + DATA + C_LIMIT], 0
	je	slow			# it is shut: somebody is asked of each
	cmp	r11, REQUEST_MMIO
	je	mmio
	cmp	r11, HLT
	je	halt
	cmp	r11, MAP_GPA
	jne	slow
	# R12 = physical address, with the shared bit or without; R13 = size (GHCI 1.5, 3.2).
	mov	rax, r12
	or	rax, r13
	test	eax, 0xfff
	jnz	slow
	test	r13, r13
	jz	slow
	data	mov, rdx, M_SHARED
	lea	rcx, [rdx + rdx - 1]
	cmp	r12, rcx
	ja	slow
	cmp	r13, rdx
	ja	slow
	lea	rax, [r12 + r13 - 1]
	xor	rax, r12
	test	rax, rdx
	jnz	slow
	call	record
	jc	slow
done:	xor	r10d, r10d
	call	answered
	restore
	lea	rsp, [rsp + 8]
	iretq

# The vCPU sleeps in code that is not this one's: it can be interrupted there for as long as it
# likes. The flags of the frame are those of the code that asked.
halt:	test	r12, r12		# an interrupt that would not be taken is to wake it
	jnz	slow
	call	record
	jc	slow
	xor	r10d, r10d
	call	answered
	restore
	lea	rsp, [rsp + 8]
	jmp	[rip + start + DATA + M_HALT]

veinfo:	call	number
	shl	ebx, VE_SHIFT
	lea	rsi, [rip + start + DATA + VES]
	add	rbx, rsi
	mov	rax, [rbx + V_REASON]
	test	rax, rax
	jz	slow
	cmp	rax, EPT_VIOLATION
	jne	1f
	cmp	qword ptr [rip + start + DATA + C_LIMIT], 0
	je	slow
1:	mov	[rbp + F_RCX], rax
	mov	rax, [rbx + V_QUALIFICATION]
	mov	[rbp + F_RDX], rax
	mov	r8, [rbx + V_GLA]
	mov	r9, [rbx + V_GPA]
	mov	r10, [rbx + V_LENGTH]
	mov	qword ptr [rbx + V_REASON], 0
	count	N_FETCHED
	call	answered
	restore
	lea	rsp, [rsp + 8]
	iretq

# An instruction that the monitor has made a #VE of: R12 = leaf, R13 = subleaf; R12 = width, R13 = 1
# for a write, R14 = port, R15 = what is written; R12 = index, R13 = what is written (GHCI 1.5, 3.6,
# 3.9 to 3.11). It is carried out here, for which the vCPU leaves for the monitor.
input:	mov	eax, r12d
	cmp	r11d, VE_IO
	jne	1f
	lea	rax, [r12 - 1]
	cmp	rax, 3
	ja	slow
	test	rax, r12
	jnz	slow
	cmp	r13, 1
	ja	slow
	cmp	r14, 0xffff
	ja	slow
	mov	eax, r14d
1:	mov	rbx, r11
	shl	rbx, 32
	or	rbx, rax
	# Of the instructions that this may be about, it is the one nearest above on this stack.
	lea	rdx, [rbp + F_RIP]
	lea	rdi, [rip + start + DATA + KEYS]
	lea	rsi, [rip + start + DATA + FAULTS]
	mov	qword ptr [rbp + L_PLACE], STACK
	mov	qword ptr [rbp + L_SLOT], FAULT_COUNT
	mov	rax, cr3
	mov	[rbp + L_HANDLER], rax
	mov	ecx, FAULT_COUNT - 1
2:	mov	rax, [rdi + rcx * 8]
	test	rax, rax
	jz	3f
	sub	rax, rdx
	mov	[rbp + L_ENTRY], rax
	mov	eax, ecx
	shl	eax, 8
	add	rax, rsi
	cmp	[rax + R_TAG], rbx
	jne	3f
	cmp	dword ptr [rax + R_ERROR], 0	# of an instruction, CPL and CR3 are in these two
	mov	rax, [rax + R_GPA]
	jne	4f
	data	test, rax, M_SHARED
	jnz	3f
	mov	rax, [rbp + L_ENTRY]
	cmp	rax, [rbp + L_PLACE]
	jae	3f
	jmp	5f
	# A program's, where the kernel has none of its own.
4:	cmp	rax, [rbp + L_HANDLER]
	jne	3f
	mov	rax, STACK - 1
	cmp	rax, [rbp + L_PLACE]
	jae	3f
5:	mov	[rbp + L_PLACE], rax
	mov	[rbp + L_SLOT], rcx
3:	dec	ecx
	jns	2b
	mov	rsi, [rbp + L_SLOT]
	cmp	esi, FAULT_COUNT
	je	slow
	call	number
	shl	ebx, VE_SHIFT
	lea	rax, [rip + start + DATA + VES]
	inc	esi
	mov	[rax + rbx + V_ASKED], rsi
	count	N_ANSWERED		# this may end the machine
	# The monitor sets CF where the CPU raises #GP, or somebody has it refused.
	mov	eax, r12d
	mov	ecx, r13d
	cmp	r11d, VE_CPUID
	je	6f
	mov	ecx, r12d
	cmp	r11d, VE_RDMSR
	je	7f
	ja	8f
	mov	edx, r14d
	cmp	r12d, 2
	ja	3f
	je	2f
	test	r13d, r13d		# and clears CF
	jnz	1f
	in	al, dx
	jc	refused
	movzx	r11d, al
	jmp	9f
1:	mov	eax, r15d
	out	dx, al
	jc	refused
	jmp	9f
2:	test	r13d, r13d
	jnz	1f
	in	ax, dx
	jc	refused
	movzx	r11d, ax
	jmp	9f
1:	mov	eax, r15d
	out	dx, ax
	jc	refused
	jmp	9f
3:	test	r13d, r13d
	jnz	1f
	in	eax, dx
	jc	refused
	mov	r11d, eax
	jmp	9f
1:	mov	eax, r15d
	out	dx, eax
	jc	refused
	jmp	9f
6:	clc
	cpuid
	jc	refused
	mov	r12d, eax
	mov	r13d, ebx
	mov	r14d, ecx
	mov	r15d, edx
	jmp	9f
7:	clc
	rdmsr
	jc	refused
	mov	r11d, eax
	shl	rdx, 32
	or	r11, rdx
	jmp	9f
8:	mov	eax, r13d
	mov	rdx, r13
	shr	rdx, 32
	clc
	wrmsr
	jc	refused
9:	xor	r10d, r10d
1:	mov	rax, [rbp + L_SLOT]
	lea	rcx, [rip + start + DATA + KEYS]
	mov	qword ptr [rcx + rax * 8], 0
	call	answered
	restore
	lea	rsp, [rsp + 8]
	iretq
refused:
	mov	r10, 1
	ror	r10, 1			# TDG.VP.VMCALL_INVALID_OPERAND
	jmp	1b

# R12 = width, R13 = 1 for a write, R14 = physical address with the shared bit, R15 = what is
# written (GHCI 1.5, 3.7).
mmio:	lea	rax, [r12 - 1]
	cmp	rax, 7
	ja	slow
	test	rax, r12
	jnz	slow
	cmp	r13, 1
	ja	slow
	mov	rax, r14
	data	mov, rcx, M_SHARED
	test	rax, rcx
	jz	slow
	xor	rax, rcx
	mov	ecx, eax
	and	ecx, 0xfff
	add	ecx, r12d
	cmp	ecx, 0x1000
	ja	slow
	call	is_ram
	jc	slow
	call	seen
	jc	slow
	call	stopped
	jc	held
	mov	[rbp + L_PLACE], rax
	# Handlers nest: of the faults that lead there, it is the one nearest above on this stack.
	lea	rdx, [rbp + F_RIP]
	lea	rdi, [rip + start + DATA + KEYS]
	lea	rsi, [rip + start + DATA + FAULTS]
	mov	ecx, STACK
	mov	ebx, FAULT_COUNT
	mov	r10d, FAULT_COUNT - 1
1:	mov	rax, [rdi + r10 * 8]
	sub	rax, rdx
	cmp	rax, rcx
	jae	2f
	mov	r11d, r10d
	shl	r11d, 8
	cmp	[rsi + r11 + R_GPA], r14
	jne	2f
	mov	rcx, rax
	mov	ebx, r10d
2:	dec	r10d
	jns	1b
	xor	r10d, r10d
	mov	r11d, REQUEST_MMIO
	cmp	ebx, FAULT_COUNT
	je	slow
	mov	[rbp + L_SLOT], rbx
	call	number
	call	take
	jc	slow
	push	rdi
	mov	rax, [rbp + L_SLOT]
	shl	eax, 8
	lea	rsi, [rip + start + DATA + FAULTS]
	add	rsi, rax
	mov	ecx, R_KEPT / 8
	add	rsi, R_LINEAR
	add	rdi, R_LINEAR
	cld
	rep movsq
	pop	rdi
	call	mark
	mov	dword ptr [rdi + R_SITE], K_MMIO
	mov	[rdi + R_VALUE], r15
	mov	[rdi + R_GPA], r14
	mov	[rdi + R_WIDTH], r12
	mov	[rdi + R_DIRECTION], r13
	mov	rax, [rbp + F_RCX]
	mov	[rdi + R_MASK], ax
	mov	rsi, [rbp + L_PLACE]
	mov	[rdi + R_ALIAS], rsi
	lea	rcx, [rip + start + DATA + KEYS]
	mov	rax, [rbp + L_SLOT]
	mov	qword ptr [rcx + rax * 8], 0
	test	r13d, r13d
	jnz	store
	cmp	r12d, 2
	jb	1f
	je	2f
	cmp	r12d, 4
	je	3f
	mov	r11, [rsi]
	jmp	4f
1:	movzx	r11d, byte ptr [rsi]
	jmp	4f
2:	movzx	r11d, word ptr [rsi]
	jmp	4f
3:	mov	r11d, [rsi]
4:	mov	[rdi + R_READ], r11
	call	commit
	jmp	5f
store:	call	commit			# a store that ends the machine is in the ring
	cmp	r12d, 2
	jb	1f
	je	2f
	cmp	r12d, 4
	je	3f
	mov	[rsi], r15
	jmp	5f
1:	mov	[rsi], r15b
	jmp	5f
2:	mov	[rsi], r15w
	jmp	5f
3:	mov	[rsi], r15d
5:	call	release
	jmp	done


# The vCPU goes on behind its TDCALL, which has succeeded.
answered:
	mov	qword ptr [rbp + F_RAX], 0
	add	qword ptr [rbp + F_RIP], 4
	and	dword ptr [rbp + F_RFLAGS], ~RF
	ret

# A TDCALL that is no access, with the registers that it was made with. Out: CF where the ring is
# not to be had. All but R8 to R15 are lost.
record:	call	number
	call	take
	jc	1f
	mov	dword ptr [rdi + R_SITE], K_TDCALL
	mov	qword ptr [rdi + R_LINEAR], 0
	data	mov, rax, C_WINDOW
	mov	[rdi + R_ALIAS], rax
	call	fill
	call	commit
	call	release
	clc
1:	ret
