# The guest code that all compiled sites share. It is assembled behind layout.constants() and
# copy.S and ram.S, with SMP, LA57 and NESTED as 0 or 1, and its bytes are in image.py.
#
# In: interrupts off, CPL 0, every register as interrupted.
#     RSP -> error code, RIP, CS, RFLAGS, RSP, SS      (Intel SDM vol. 3A, figure 6-9)
# A thunk is jumped to with RDI = the record, RAX = where the window has the register, and
#     RSP -> RIP, CS, RFLAGS, RSP, SS
# RAX, RCX, RDX, RSI and RDI are the thunk's; what they were is in the record.
#
# Where it is NESTED all of this runs in the monitor, on a page of the vCPU's that begins with what
# has been told of the guest (monitor.S): poison is in the nested tables, and a thunk ends at `done`.
.intel_syntax noprefix
.set F_RIP, 0
.set F_FLAGS, 16
.set F_RSP, 24
.set TF, 0x100
.set E_P, 1
.set E_W, 2
.set E_U, 4
.set LARGE, 0x80

# A word of the control page. The code is seen DISTANCE above the data.
.macro control op, register, name
	\op	\register, [rip + start + DATA + \name]
.endm
# The guest's CR3, and the address that it has faulted at.
.macro tables register
.if NESTED
	mov	\register, rsp
	and	\register, -4096
	mov	\register, [\register + GUEST_CR3]
.else
	mov	\register, cr3
.endif
.endm
.macro count name
.if SMP
	lock inc qword ptr [rip + start + DATA + \name]
.else
	inc	qword ptr [rip + start + DATA + \name]
.endif
.endm

# Goes on where RAX is a place in the window that has memory, else at OUT. RBP and R8 are lost.
.macro seen_ram out
	mov	r8, rax
	control	sub, r8, C_WINDOW
	in_ram	r8, rbp, \out
.endm

start:
fast:
	# The head of the ring is its lock as well: while a record is being made, it holds the
	# complement of the owner's number, which is above every limit. So an access of an NMI's
	# handler finds its own vCPU as the owner, and a ring that is full or shut looks the same.
	push	rdi
.if SMP
	push	rdi
	push	rax
	push	rbx
	push	rcx
	push	rdx
	# QEMU's number of the vCPU, not the guest's: valid at any moment (SDM vol. 2A, CPUID).
	mov	eax, 1
	cpuid
	shr	ebx, 24
	not	rbx
1:	control	mov, rax, C_HEAD
	test	rax, rax
	js	3f
	control	cmp, rax, C_LIMIT
	jae	4f
	lock cmpxchg [rip + start + DATA + C_HEAD], rbx
	jne	1b
	mov	[rsp + 32], rax
	mov	rdi, rax
	control	and, rdi, C_RING_MASK
	control	add, rdi, C_RING
	not	rbx
	mov	[rdi + R_VCPU], bx
	pop	rdx
	pop	rcx
	pop	rbx
	pop	rax
	jmp	5f
3:	cmp	rax, rbx
	je	6f
	pause				# QEMU leaves its loop here, so the owner gets on
	jmp	1b
4:	count	N_FULL
	jmp	7f
6:	count	N_NESTED
7:	pop	rdx
	pop	rcx
	pop	rbx
	pop	rax
	pop	rdi
	pop	rdi
	jmp	[rip + start + DATA + C_SLOW]
5:
.else
	mov	rdi, -1
	xchg	rdi, [rip + start + DATA + C_HEAD]
	control	cmp, rdi, C_LIMIT
	jae	busy
	push	rdi
	control	and, rdi, C_RING_MASK
	control	add, rdi, C_RING
.endif
	pop	qword ptr [rdi + R_NUMBER]
	pop	qword ptr [rdi + G_RDI]
	pop	qword ptr [rdi + R_ERROR]
	mov	[rdi + G_RAX], rax
	mov	[rdi + G_RCX], rcx
	mov	[rdi + G_RDX], rdx
	mov	[rdi + G_RBX], rbx
	mov	[rdi + G_RBP], rbp
	mov	[rdi + G_RSI], rsi
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
	mov	[rdi + G_R\number], r\number
.endr
	rdtsc
	mov	[rdi + R_TSC], eax
	mov	[rdi + R_TSC + 4], edx
	mov	rax, [rsp + F_RSP]
	mov	[rdi + G_RSP], rax
	# RCX gathers every bit in which the site, the code or the tables are not as they were.
	mov	rcx, [rsp + F_FLAGS]
	mov	[rdi + R_RFLAGS], rcx
	and	ecx, TF
	# The CPU has set RF for the fault (SDM vol. 3B, 17.3.1.1), and clears it behind the instruction.
	and	qword ptr [rsp + F_FLAGS], ~0x10000
	mov	rax, [rsp + F_RIP]
	imul	esi, eax, HASH
	and	esi, SITE_MASK
	control	add, rsi, C_SITES
found:	cmp	[rsi + S_RIP], rax
	jne	probe
.if NESTED
	test	ecx, ecx
	jnz	traced
	# The operand's own address is what its registers say, and has to lead to where the fault was.
	call	[rsi + S_ORIGIN]
	mov	[rdi + R_LINEAR], rdx
	mov	eax, edx
	and	eax, 0xfff
	cmp	rax, [rsi + S_SPAN]
	ja	crossing
	push	rbx
	push	rbp
	push	r8
	mov	rdx, [rsi + S_AT]
	push	rsi
	lea	rsi, [rip + start + DATA + OTHER_SIDE]
	call	translate
	pop	rsi
	jc	1f
	seen_ram 1f
	mov	rax, [rax]
	cmp	rax, [rsi + S_CODE]
	jne	1f
	mov	rdx, [rdi + R_LINEAR]
	call	translate
	jc	2f
	cmp	qword ptr [rsi + S_WRITES], 0
	je	3f
	test	bl, E_W
	jz	2f
3:	pop	r8
	pop	rbp
	pop	rbx
	mov	rcx, rsp
	and	rcx, -4096
	cmp	rax, [rcx + GUEST_ALIAS]
	jne	tail
	mov	[rdi + R_ALIAS], rax
.irp number, 0, 1, 2, 3
	mov	rcx, rax
	control	sub, rcx, C_WIDE\number
	control	cmp, rcx, C_EXTENT\number
	jb	stopped
.endr
	# A write there may move any device.
	cmp	qword ptr [rsi + S_WRITES], 0
	je	3f
	mov	rcx, rax
	control	sub, rcx, C_SETUP
	control	cmp, rcx, C_SETUP_SIZE
	jb	stopped
3:	movzx	ecx, ax
	control	add, rcx, C_STOPS
	cmp	byte ptr [rcx], 0
	jne	stopped
	jmp	[rsi + S_THUNK]
1:	pop	r8
	pop	rbp
	pop	rbx
	jmp	changed
2:	pop	r8
	pop	rbp
	pop	rbx
	jmp	unmapped
done:	jmp	[rip + start + DATA + C_DONE]
.else
	mov	rdx, [rsi + S_AT]
	mov	rdx, [rdx]
	xor	rdx, [rsi + S_CODE]
	or	rcx, rdx
	mov	rax, cr2
	mov	[rdi + R_LINEAR], rax
again:	sub	rax, [rsi + S_FIRST]
	cmp	rax, [rsi + S_LAST]
	ja	elsewhere
compare:				# RCX as above; RAX = CR2 - FIRST; each level is read live
	tables	rdx
	control	and, rdx, C_ADDRESS
	add	rdx, [rsi + S_TOP]
	mov	rdx, [rdx]
	xor	rdx, [rsi + S_TOP_ENTRY]
	or	rcx, rdx
.macro same place, entry
	mov	rdx, [rsi + \place]
	mov	rdx, [rdx]
	xor	rdx, [rsi + \entry]
	or	rcx, rdx
.endm
.if LA57
	same	S_P4, S_E4
.endif
	same	S_P3, S_E3
	same	S_P2, S_E2
	mov	rdx, [rsi + S_STOP]
	or	cl, [rdx + rax]
	same	S_P1, S_E1
	jnz	walk
	add	rax, [rsi + S_PAGE]
	mov	[rdi + R_ALIAS], rax
	jmp	[rsi + S_THUNK]

# Another page than the last one, or the first byte of the same: that may be the tail of an access
# which began in the page before. The thunk goes on at `compare` if its operand's own address is
# FIRST - 1. CR2 lies in the operand, so it is that address then. Else it goes on at `other`.
elsewhere:
	jmp	[rsi + S_ORIGIN]
other:	cmp	rax, -1
	je	tail

# Something differs: walk the tables, and keep what each level has for the next comparison.
walk:	test	dword ptr [rsp + F_FLAGS], TF
	jnz	traced
	mov	rax, [rsi + S_AT]
	mov	rax, [rax]
	cmp	rax, [rsi + S_CODE]
	jne	changed
	mov	rdx, [rdi + R_LINEAR]
	mov	eax, edx
	and	eax, 0xfff
	cmp	rax, [rsi + S_SPAN]
	ja	crossing
	xor	eax, eax
	bts	rax, 63
	mov	[rsi + S_FIRST], rax
	mov	[rsi + S_BASE], rax
	push	rbx
	push	rbp
	push	r8
	call	translate
	jc	1f
	test	r8, r8			# not poisoned, or not any more
	jz	1f
	cmp	qword ptr [rsi + S_WRITES], 0
	je	2f
	test	bl, E_W
	jnz	2f
1:	pop	r8
	pop	rbp
	pop	rbx
	jmp	unmapped
2:	pop	r8
	pop	rbp
	pop	rbx
	mov	rcx, rdx
	and	rcx, -4096
	add	rcx, [rsi + S_SKIP]
	sub	rdx, rcx
	sub	rax, rdx
	mov	[rsi + S_PAGE], rax
	sub	rax, [rsi + S_SKIP]
	mov	[rsi + S_FIRST], rcx
	sub	rcx, [rsi + S_BEFORE]
	mov	[rsi + S_BASE], rcx
.irp number, 0, 1, 2, 3
	mov	rcx, rax
	control	sub, rcx, C_WIDE\number
	control	cmp, rcx, C_EXTENT\number
	jb	wide
.endr
	# A write there may move any device.
	cmp	qword ptr [rsi + S_WRITES], 0
	je	6f
	mov	rcx, rax
	control	sub, rcx, C_SETUP
	control	cmp, rcx, C_SETUP_SIZE
	jb	wide
6:
	and	eax, 0xf000
	control	add, rax, C_STOPS
5:	add	rax, [rsi + S_SKIP]
	mov	[rsi + S_STOP], rax
	cmp	byte ptr [rax + rdx], 0
	jne	stopped
	xor	ecx, ecx
	mov	rax, [rdi + R_LINEAR]
	jmp	again
wide:	lea	rax, [rip + start + DATA + ALWAYS]
	jmp	5b
.endif

# In: RDX = a linear address, RSI -> where the levels are kept. Out: CF, or RAX = its place in the
# window, RBX = all entries ANDed, R8 = the poison of the leaf. RCX and RBP are lost.
.macro level shift, place, entry
	control	cmp, rax, C_REACH
	jae	4f
.if NESTED
	in_ram	rax, rcx, 4f
.endif
	mov	rcx, rdx
	shr	rcx, \shift
	and	ecx, 511
	lea	rcx, [rax + rcx * 8]
	control	add, rcx, C_WINDOW
	mov	rax, [rcx]
	mov	[rsi + \place], rcx
	mov	[rsi + \entry], rax
	and	rbx, rax
	test	al, E_P
	jz	4f
.endm
.macro table
	or	rbp, rax
	control	and, rax, C_ADDRESS
.endm
translate:
	mov	rbx, -1
	xor	ebp, ebp
	tables	rax
	control	and, rax, C_ADDRESS
	mov	r8, rax
.if LA57
.if NESTED
	# A guest that is traced from its reset on has four levels first.
	mov	rcx, rsp
	and	rcx, -4096
	bt	dword ptr [rcx + GUEST_CR4], 12
	jnc	6f
.endif
	level	48, S_TOP, S_TOP_ENTRY
	sub	[rsi + S_TOP], r8
	test	al, LARGE
	jnz	4f
	table
6:	level	39, S_P4, S_E4
.else
	level	39, S_TOP, S_TOP_ENTRY
	sub	[rsi + S_TOP], r8
.endif
	test	al, LARGE
	jnz	4f
	table
	level	30, S_P3, S_E3
	mov	[rsi + S_P2], rcx
	mov	[rsi + S_E2], rax
	mov	[rsi + S_P1], rcx
	mov	[rsi + S_E1], rax
	mov	ecx, 0x3fffffff
	test	al, LARGE
	jnz	3f
	table
	level	21, S_P2, S_E2
	mov	[rsi + S_P1], rcx
	mov	[rsi + S_E1], rax
	mov	ecx, 0x1fffff
	test	al, LARGE
	jnz	3f
	table
	level	12, S_P1, S_E1
	mov	ecx, 0xfff
3:	test	bl, E_U			# of user space: rights and SMAP are Python's
	jnz	4f
	mov	r8, rax
	control	and, r8, C_MARKS
	xor	rax, r8
	or	rbp, rax
	control	test, rbp, C_RESERVED
	jnz	4f
	control	and, rax, C_ADDRESS
	not	rcx
	and	rax, rcx
	not	rcx
	and	rcx, rdx
	or	rax, rcx
	control	cmp, rax, C_REACH
	jae	5f
	control	add, rax, C_WINDOW
	clc
	ret
4:	stc
	ret
5:	control	sub, rax, C_FAR
	control	cmp, rax, C_FAR_SIZE
	jae	4b
	control	add, rax, C_FAR_WINDOW
	clc
	ret

# For thunks whose instruction has an operand in RAM too. In: RDX = its linear address, ECX = 0 for
# a read. Out: CF, or RAX = its place in the window. RCX is lost.
ram:	push	rbx
	push	rbp
	push	r8
	push	rsi
	push	rcx
	lea	rsi, [rip + start + DATA + OTHER_SIDE]
	call	translate
	pop	rcx
	jc	2f
	control	cmp, rax, C_FAR_WINDOW
	jae	1f
	test	r8, r8
	jnz	1f
.if NESTED
	seen_ram 1f
	mov	rsi, r8
	call	reaches
	jc	1f
.endif
	jecxz	2f			# CF is clear
	test	bl, E_W
	jnz	2f
1:	stc
2:	pop	rsi
	pop	r8
	pop	rbp
	pop	rbx
	ret

.if NESTED
ram_ranges

ways_through
.endif

probe:	cmp	qword ptr [rsi + S_RIP], 0
	je	absent
	add	rsi, SITE_SIZE
	control	cmp, rsi, C_SITES_END
	jb	found
	control	mov, rsi, C_SITES
	jmp	found

moved:
	count	N_MOVED
	jmp	back
traced:
	count	N_TRACED
	jmp	back
changed:
	count	N_CHANGED
	jmp	back
crossing:
	count	N_CROSSING
	jmp	back
unmapped:
	count	N_UNMAPPED
	jmp	back
stopped:
	count	N_STOPPED
	jmp	back
	# A device may have moved: then SITES is MOVED bytes further, and no entry is found.
absent:	test	byte ptr [rip + start + DATA + C_SITES], MOVED
	jnz	moved
	count	N_ABSENT
	jmp	back
tail:
	count	N_TAIL
	jmp	back
refuse:	count	N_REFUSED
back:	mov	rax, [rdi + R_RFLAGS]
	mov	[rsp + F_FLAGS], rax
	mov	rax, [rdi + G_RAX]
	mov	rcx, [rdi + G_RCX]
	mov	rdx, [rdi + G_RDX]
	mov	dword ptr [rdi + R_THREAD], 0	# the upper half of the error code
	push	qword ptr [rdi + R_ERROR]
	push	qword ptr [rdi + G_RSI]
	mov	rsi, [rdi + R_NUMBER]
	mov	rdi, [rdi + G_RDI]
	mov	[rip + start + DATA + C_HEAD], rsi
	pop	rsi
	jmp	[rip + start + DATA + C_SLOW]

.if SMP == 0
busy:	cmp	rdi, -1
	je	1f
	count	N_FULL
	jmp	2f
1:	count	N_NESTED
2:	mov	[rip + start + DATA + C_HEAD], rdi
	pop	rdi
	jmp	[rip + start + DATA + C_SLOW]
.endif

# Where call chains are wanted, it is the thunk of every site: it copies the stack above RSP and
# goes on to the site's own. In and out: RDI and RAX as a thunk has them; RSI = the site.
# A stack ends at its last page, and at STACK_END. The last word of one that was switched to, as an
# interrupt's is, leads to the one before (Linux: arch/x86/include/asm/irq_stack.h): that is
# copied behind it.
stacks:	push	rax
	push	rbx
	push	rbp
	push	rsi
	push	rdi
	mov	rbx, [rdi + R_NUMBER]
	control	and, rbx, C_RING_MASK
	shl	rbx, STACK_SHIFT
	control	add, rbx, C_STACKS
	lea	rbp, [rbx + STACK_SIZE]
.if NESTED
	control	mov, rdx, C_STATE
	xor	ecx, ecx
	mov	[rbx + K_STATE], rcx
	call	ram
	jc	2f
.else
	control	mov, rax, C_STATE
.endif
	mov	rax, [rax]
	mov	[rbx + K_STATE], rax
2:	mov	rdx, [rdi + G_RSP]
	lea	rdi, [rbx + K_DATA]
	call	run
	lea	rax, [rdi - K_DATA]
	sub	rax, rbx
	mov	[rbx + K_FIRST], rax
	jz	1f
	mov	rdx, [rdi - 8]
	mov	[rbx + K_NEXT], rdx
	test	rdx, rdx
	jns	2f			# no stack of the kernel's
	call	run
2:
	lea	rax, [rdi - K_DATA]
	sub	rax, rbx
1:	mov	[rbx + K_SIZE], rax
	pop	rdi
	pop	rsi
	pop	rbp
	pop	rbx
	pop	rax
	jmp	[rsi + S_BEHIND]

# In: RDX = the linear address of a stack, RDI -> where its copy goes, as far as RBP. Out: RDI.
run:	test	dl, 7
	jnz	2f
1:	cmp	rdi, rbp
	jae	2f
	control	cmp, rdx, C_STACK_END
	je	2f
	xor	ecx, ecx
	call	ram
	jc	2f
	mov	rsi, rax
	mov	ecx, edx
	or	rcx, -4096
	neg	rcx			# to the end of the page
	mov	rax, rbp
	sub	rax, rdi
	cmp	rcx, rax
	cmova	rcx, rax
	add	rdx, rcx
	shr	ecx, 3
	copy_all
	jmp	1b
2:	ret

# Where the guest is to stop at a time, it is the thunk of every site. AFTER is `stacks` or `behind`.
deadline:
	mov	rcx, [rdi + R_TSC]
	control	cmp, rcx, C_DEADLINE
	jae	stopped
	jmp	[rip + start + DATA + C_AFTER]
behind:	jmp	[rsi + S_BEHIND]
