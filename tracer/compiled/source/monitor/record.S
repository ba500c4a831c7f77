# Records: each input of the guest is one in the ring.

# Out: R13 -> the record, which has all but what was accessed; RBP = its number, or 0 where there is
# none. R14 = the bytes of code that are known, in CODE. RBX and R12 stay.
begin:
	cmp	qword ptr [rip + start + DATA + M_CLOSED], 0
	jne	6f
	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	jne	6f			# who is asked makes the record
	control	mov, rax, C_HEAD
	guest	mov, rcx, S_OWNER / 8
room:	test	rax, rax
	js	2f
	control	cmp, rax, C_ROOM
	jae	8f
	lock cmpxchg [rip + start + DATA + C_HEAD], rcx
	jne	room
	mov	rbp, rax
	control	and, rax, C_RING_MASK
	lea	r13, [rip + start + DATA + RING]
	add	r13, rax
	mov	[r13 + R_NUMBER], rbp
	jmp	4f
	# This vCPU makes an access of its own at a compiled site, and an NMI came.
2:	cmp	rax, rcx
	je	5f
	# Another one does.
3:	pause
	control	mov, rax, C_HEAD
	jmp	room
	# Whoever takes records has to first. A read that is watched tells them, and the guest's time
	# stands meanwhile: at a breakpoint QEMU throws away all that it has translated
	# (gdb_vm_state_change).
8:	mov	rax, [rip + start + DATA + M_FULL_AT]
	test	rax, rax
	jz	full
	mov	rax, [rax]
full:	control	mov, rax, C_HEAD
	jmp	room
5:	lock inc qword ptr [rip + start + DATA + M_NESTED]
6:	xor	ebp, ebp
	lea	r13, [r15 + STATE + S_SCRATCH]
4:	call	describe
	# What asks for it is the guest's handler of #VE: the record is of the instruction.
	guest	mov, rsi, S_ASKED / 8
	test	rsi, rsi
	jz	1f
.irp field, R_CPL, R_RFLAGS, R_RIP, R_NEXT, R_CR3, R_CODE, R_CODE+8
	mov	rax, [rsi + \field]
	mov	[r13 + \field], rax
.endr
	mov	eax, [rsi + R_MANNER]
	mov	[r13 + R_MANNER], eax
	add	rsi, R_GPR
	lea	rdi, [r13 + R_GPR]
	copy	16
1:
.if STACKS
	jmp	stacks
.else
	mov	rdx, [r13 + R_RIP]
	call	thread
	mov	[r13 + R_THREAD], eax
	ret
.endif

# In: RDX = where the guest's code is. Out: EAX = the kernel's thread that is current, 4 bytes relative
# to GS, or 0 where nobody is told. RCX, RDX, RDI and R11 are lost.
thread:	sub	rdx, [r15 + STATE + S_CODE]
	cmp	rdx, [r15 + STATE + S_CODE_SIZE]
	jae	1f
	mov	ecx, MSR_GS_BASE
	rdmsr
	shl	rdx, 32
	or	rdx, rax
	add	rdx, [r15 + STATE + S_THREAD]
	call	settled
	jc	1f
	mov	eax, [rax]
	ret
1:	xor	eax, eax
	ret

# As `translate`, but R11 and LEAF, for a word of the kernel's own that stays where it is: one that
# was found by the same page tables is not looked up again.
settled:
	mov	rax, [r15 + V_CR3]
	cmp	rax, [r15 + STATE + S_TABLES]
	jne	1f
	cmp	rdx, [r15 + STATE + S_WORD]
	jne	1f
	mov	rax, [r15 + STATE + S_WORD_AT]
	ret				# CF is clear
1:	call	translate
	jc	1f
	mov	[r15 + STATE + S_WORD], rdx
	mov	[r15 + STATE + S_WORD_AT], rax
	mov	rcx, [r15 + V_CR3]
	mov	[r15 + STATE + S_TABLES], rcx
	clc
1:	ret

# Says in the record at R13 what the guest is about. RAX, RCX, RDX, RSI, RDI and R11 are lost.
describe:
	rdtsc
	mov	[r13 + R_TSC], eax
	mov	[r13 + R_TSC + 4], edx
	xor	eax, eax
	mov	[r13 + R_ALIAS], rax
	mov	[r13 + R_THREAD], eax
	mov	[r13 + R_VALUE], rax
	mov	[r13 + R_VALUE + 8], rax
	mov	[r13 + R_CODE], rax
	mov	[r13 + R_CODE + 8], rax
	guest	mov, rax, S_OWNER / 8
	not	rax
	mov	[r13 + R_VCPU], ax
	movzx	eax, byte ptr [r15 + V_CPL]
	mov	[r13 + R_CPL], eax
	mov	rax, [r15 + V_RFLAGS]
	mov	[r13 + R_RFLAGS], rax
	mov	rax, [r15 + V_CR3]
	test	dword ptr [r15 + V_EFER], 0x400		# LMA
	jnz	1f
	# How code outside long mode translates is told by bits that CR3 does not have.
	bts	rax, MARK
	bt	qword ptr [r15 + V_CR0], 31
	jnc	1f
	bts	rax, MARK_PAE
	bt	qword ptr [r15 + V_CR4], 5
	jc	1f
	btr	rax, MARK_PAE
	bts	rax, MARK_SHORT
	bt	qword ptr [r15 + V_CR4], 4
	jnc	1f
	bts	rax, MARK_LARGE
1:	mov	[r13 + R_CR3], rax
	mov	rax, [r15 + V_RIP]
	add	rax, [r15 + V_CS_BASE]
	mov	[r13 + R_RIP], rax
	lea	rsi, [r15 + STATE]
	lea	rdi, [r13 + R_GPR]
	copy	16
	mov	dword ptr [r13 + R_MANNER], 0
	mov	eax, 64
	test	dword ptr [r15 + V_EFER], 0x400		# LMA
	jz	1f
	test	byte ptr [r15 + V_CS_ATTRIBUTES + 1], 2	# L
	jnz	2f
1:	mov	eax, 32
	test	byte ptr [r15 + V_CS_ATTRIBUTES + 1], 4	# D
	jnz	2f
	mov	eax, 16
2:	mov	[r13 + R_MANNER + 2], al
	# A program may be over before the record is taken, and its code is gone then.
	cmp	byte ptr [r15 + V_CPL], 3
	jne	5f
	mov	rdx, [r13 + R_RIP]
	lea	rsi, [r13 + R_CODE]
3:	call	translate
	jc	5f
4:	mov	cl, [rax]
	mov	[rsi], cl
	inc	rax
	inc	rdx
	inc	rsi
	lea	rcx, [r13 + R_CODE + CODE_SIZE]
	cmp	rsi, rcx
	je	5f
	test	edx, 0xfff
	jnz	4b
	jmp	3b
5:	ret

# The record tells what happens next: commit it, and make the access. ECX = bytes of the instruction.
# What is read is told afterwards, by `end`.
commit:
	cmp	qword ptr [r15 + STATE + S_ASKED], 0
	jne	2f
	mov	rax, [r15 + V_RIP]
	add	rax, [r15 + V_CS_BASE]
	add	rax, rcx
	mov	[r13 + R_NEXT], rax
2:	test	rbp, rbp
	jz	1f
	mov	[r13 + R_SEQUENCE], rbp
1:	ret

# Let the next record be made.
end:	test	rbp, rbp
	jz	1f
	add	rbp, SLOT_SIZE
	mov	[rip + start + DATA + C_HEAD], rbp
1:	ret
