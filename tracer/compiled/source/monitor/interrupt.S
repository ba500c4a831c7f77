# Interrupts.

# One is due, and the guest would take it. It is taken here, and given to the guest as a virtual
# one: QEMU 7.2 delivers what is injected as an event twice (helper_vmrun).
interrupt:
	test	dword ptr [r15 + V_INTERRUPT], V_IRQ
	jnz	hold
	cmp	qword ptr [rip + start + DATA + M_CLOSED], 0
	jne	straight
	# Which one it is nobody knows yet: no record is begun where it may be one to ask about.
	mov	rax, [r15 + V_IOPM]
	mov	rax, [rax + VECTORS]
	mov	[r15 + STATE + S_ASKING], rax
	call	begin
	mov	dword ptr [r13 + R_SITE], K_IRQ
	mov	byte ptr [r13 + R_MANNER], 1
	mov	byte ptr [r15 + STATE + S_OPEN], 1
	stgi
	sti
	nop				# STI has a shadow
	cli
	clgi
	# None came after all: another one may have been withdrawn.
	mov	byte ptr [r15 + STATE + S_OPEN], 0
	call	forget
	jmp	enter

# The entry of a gate has pushed its vector.
taken:
	clgi
	pop	rax
	movzx	eax, al
	# What lies there when an NMI comes behind firmware's code is the guest's own R15.
	mov	r15, rsp
	and	r15, -4096
	lea	rsp, [r15 + STACK_TOP]
	sub	r15, STATE
	cmp	byte ptr [r15 + STATE + S_OPEN], 0
	je	fault
	xor	ebx, ebx
	xchg	bl, [r15 + STATE + S_OPEN]
	cmp	eax, 2
	je	nmi
	cmp	ebx, 2
	je	fault
	mov	ebx, eax
	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	je	1f
	lea	edx, [rbx + IRQS]
	call	flagged
	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	jne	1f
	call	begin
	mov	dword ptr [r13 + R_SITE], K_IRQ
	mov	byte ptr [r13 + R_MANNER], 1
1:	mov	[r13 + R_ADDRESS], rbx
	mov	[r13 + R_VALUE], rbx
	mov	[r15 + V_VECTOR], ebx
	mov	dword ptr [r15 + V_INTERRUPT], V_DUE
	if_asked	ask
	if_asked	made
	xor	ecx, ecx
	call	commit
	call	end
	jmp	enter

# An NMI has taken the chance, and stays masked to the IRET of the guest's handler.
nmi:	cmp	ebx, 2
	je	1f
	call	forget
1:	mov	eax, NMI
	jmp	raise

# Firmware's code in SMM has instructions for which the guest would leave, and its own state is not
# the guest's: so it runs here. It finds the guest's registers, and may change them, but for RSP.
smi:	lock inc qword ptr [rip + start + DATA + M_MANAGED]
	mov	byte ptr [r15 + STATE + S_OPEN], 2
	mov	rax, [r15 + V_RAX]
	guest	mov, rcx, 1
	guest	mov, rdx, 2
	guest	mov, rbx, 3
	guest	mov, rbp, 5
	guest	mov, rsi, 6
	guest	mov, rdi, 7
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
	guest	mov, r\number, \number
.endr
	stgi
	clgi
	mov	[rsp - STACK_TOP + 8 * 15], r15
	lea	r15, [rsp - STACK_TOP - STATE]
	mov	[r15 + V_RAX], rax
	mov	[r15 + STATE + 8 * 1], rcx
	mov	[r15 + STATE + 8 * 2], rdx
	mov	[r15 + STATE + 8 * 3], rbx
	mov	[r15 + STATE + 8 * 5], rbp
	mov	[r15 + STATE + 8 * 6], rsi
	mov	[r15 + STATE + 8 * 7], rdi
.irp number, 8, 9, 10, 11, 12, 13, 14
	mov	[r15 + STATE + 8 * \number], r\number
.endr
	mov	byte ptr [r15 + STATE + S_OPEN], 0
	jmp	shadowed

# The CPU has raised an exception for the monitor's own code.
fault:	cmp	eax, 13
	je	protection
	lea	ebx, [rax + EXIT_EXCEPTION]
	jmp	unknown

# Nobody takes records any more: the next one goes straight to the guest.
straight:
	and	dword ptr [r15 + V_INTERCEPTS], ~1
	jmp	enter

# The guest has not taken the last one yet, and QEMU would forget that for the one that is due
# (x86_cpu_exec_interrupt). The CPU's interrupts wait until the guest has left for anything, as it
# does at the latest where its handler returns, or where it goes on with something else for long:
# to programs, or to idle. The priority of a task is not the CPU's meanwhile.
hold:	or	dword ptr [r15 + V_INTERRUPT], V_MASKING
	or	dword ptr [r15 + V_CR_INTERCEPTS], HELD_CR
	or	dword ptr [r15 + V_EXCEPTION_INTERCEPTS], HELD_EXCEPTION
	or	dword ptr [r15 + V_INTERCEPTS], HELD
	or	dword ptr [r15 + V_INTERCEPTS2], HELD2
	mov	eax, [r15 + V_EFER]
	and	eax, SCE
	mov	[r15 + STATE + S_SCE], eax
	and	dword ptr [r15 + V_EFER], ~SCE
	jmp	enter

release:
	and	dword ptr [r15 + V_INTERRUPT], ~V_MASKING
	and	dword ptr [r15 + V_CR_INTERCEPTS], ~HELD_CR
	and	dword ptr [r15 + V_EXCEPTION_INTERCEPTS], ~HELD_EXCEPTION
	and	dword ptr [r15 + V_INTERCEPTS], ~HELD
	and	dword ptr [r15 + V_INTERCEPTS2], ~HELD2
	mov	eax, [r15 + STATE + S_SCE]
	or	[r15 + V_EFER], eax
	# MWAIT raises #VC in an encrypted guest.
	cmp	qword ptr [rip + start + DATA + M_GHCB_MSR], 0
	je	1f
	or	dword ptr [r15 + V_INTERCEPTS2], HELD2
	cmp	ebx, EXIT_MWAIT
	je	known
1:	# What it left for by this alone, it does again.
.irp code, EXIT_IRET, EXIT_UNDEFINED, EXIT_PAUSE, EXIT_READ_CR8, EXIT_WRITE_CR8
	cmp	ebx, \code
	je	enter
.endr
	cmp	ebx, EXIT_MWAIT
	je	sleep
	jmp	known
