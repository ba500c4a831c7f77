# The monitor: what a guest runs inside whose inputs are recorded. It is assembled behind
# monitor.constants(), copy.S and ram.S, and its bytes are in monitor_image.py.
#
# It runs in the guest's RAM at its physical address, with page tables that map all memory to
# itself, and with GIF clear: nothing interrupts it (AMD64 Architecture Programmer's Manual vol. 2,
# 15.17). The guest leaves for it at each instruction that is intercepted; the monitor carries that
# out in the guest's place, leaves a record, and goes back. A page of its own that describes the
# guest (VMCB), one for the state of the host, and one with registers and stack lie behind each
# other, for each vCPU.
.intel_syntax noprefix

# Offsets in a VMCB (APM vol. 2, appendix B).
.set V_CR_INTERCEPTS, 0x00
.set V_EXCEPTION_INTERCEPTS, 0x08
.set V_INTERCEPTS, 0x0c
.set V_INTERCEPTS2, 0x10
.set V_IOPM, 0x40
.set V_INTERRUPT, 0x60
.set V_VECTOR, 0x64
.set V_EXIT, 0x70
.set V_INFO1, 0x78
.set V_INFO2, 0x80
.set V_DELIVERED, 0x88
.set V_SHADOW, 0x68
.set V_EVENT, 0xa8
.set V_NESTED, 0x90
.set V_CS, 0x410
.set V_CS_ATTRIBUTES, 0x412
.set V_CS_LIMIT, 0x414
.set V_CS_BASE, 0x418
.set V_ES_BASE, 0x408
.set V_SS, 0x420
.set V_SS_ATTRIBUTES, 0x422
.set V_SS_BASE, 0x428
.set V_DS_BASE, 0x438
.set V_IDT_LIMIT, 0x484
.set V_IDT, 0x488
.set V_TR_BASE, 0x498
.set V_CPL, 0x4cb
.set V_EFER, 0x4d0
.set V_CR4, 0x548
.set V_CR3, 0x550
.set V_CR0, 0x558
.set V_DR6, 0x568
.set V_RFLAGS, 0x570
.set V_RIP, 0x578
.set V_RSP, 0x5d8
.set V_RAX, 0x5f8
.set V_CR2, 0x640

.set EXIT_READ_CR8, 0x08
.set EXIT_READ_DR7, 0x27
.set EXIT_WRITE_DR7, 0x37
.set EXIT_WRITE_CR8, 0x18
.set EXIT_EXCEPTION, 0x40
.set EXIT_UNDEFINED, EXIT_EXCEPTION + 6
.set EXIT_INTERRUPT, 0x60
.set EXIT_SMI, 0x62
.set EXIT_RDTSC, 0x6e
.set EXIT_RDPMC, 0x6f
.set EXIT_CPUID, 0x72
.set EXIT_IRET, 0x74
.set EXIT_INVD, 0x76
.set EXIT_PAUSE, 0x77
.set EXIT_HLT, 0x78
.set EXIT_IO, 0x7b
.set EXIT_MSR, 0x7c
.set EXIT_SHUTDOWN, 0x7f
.set EXIT_VMRUN, 0x80
.set EXIT_VMMCALL, 0x81
.set EXIT_SKINIT, 0x86
.set EXIT_RDTSCP, 0x87
.set EXIT_WBINVD, 0x89
.set EXIT_MONITOR, 0x8a
.set EXIT_MWAIT, 0x8b
.set EXIT_NESTED, 0x400

.set MSR_FS_BASE, 0xc0000100
.set MSR_GS_BASE, 0xc0000101
.set MSR_EFER, 0xc0000080
.set MSR_VM_CR, 0xc0010114
.set MSR_HSAVE, 0xc0010117
.set SVME, 0x1000
# CR4.PSE, PGE, SMEP and SMAP.
.set FLUSHING, 1 << 4 | 1 << 7 | 1 << 20 | 1 << 21
.set CF, 1
.set IF, 0x200
.set SCE, 1
.set TF, 0x100
.set DF, 0x400

.set UNDEFINED, 0x80000306
.set PROTECTION, 0x80000b0d
.set PAGE_FAULT, 0x80000b0e
.set DEBUG, 0x80000301
.set VIRTUALIZATION, 0x80000300 + VE
.set GATE, 16 * VE
.set E_WRITE, 2
.set E_USER, 4
.set E_RESERVED, 8
.set E_FETCH, 16
.set SLEEPS, 1 << 24
.set STI, 0xfb
.set NMI, 0x80000202
.set EVENT_TYPE, 7 << 8
.set EVENT_SOFTWARE, 4 << 8
.set FIRST_INTERRUPT, 32
.set CRYSTAL_LEAF, 0x15			# SDM vol. 2A, CPUID

# A virtual interrupt (APM vol. 2, 15.21.4): it is there, and no priority of a task is above it.
.set V_IRQ, 1 << 8
.set V_DUE, V_IRQ | 15 << 16 | 1 << 20
.set V_MASKING, 1 << 24
# What the guest leaves for while its interrupts are held up.
.set HELD_CR, 1 << 8 | 1 << 24			# CR8
.set HELD_EXCEPTION, 1 << 6			# #UD: SYSCALL and SYSRET, as SCE is clear
.set HELD, 1 << 20 | 1 << 23 | 1 << 24		# IRET, PAUSE, HLT
.set HELD2, 1 << 11				# MWAIT

# A word of the control page, and one of the monitor's own.
.macro control op, register, name
	\op	\register, [rip + start + DATA + \name]
.endm
.macro guest op, register, number
	\op	\register, [r15 + STATE + 8 * \number]
.endm

# Call a routine where somebody is asked about the input; else CF is clear.
.macro if_asked routine
	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	je	91f
	call	\routine
91:
.endm

# Reads the word that is watched where somebody is to be asked. RAX is lost.
.macro read_bell
	mov	rax, [rip + start + DATA + M_ASK_AT]
	mov	rax, [rax]
.endm

# In: RAX = the physical address of this vCPU's VMCB. All that the guest has is in there. RBX = what
# the time-stamp counter is to be a multiple of before the guest goes on, 0 for no such thing.
start:
	cli
	mov	r15, rax
	lea	rsp, [r15 + STATE + STACK_TOP]
	lgdt	[r15 + STATE + S_GDT]
	lidt	[r15 + STATE + S_IDT]
	mov	ecx, MSR_EFER
	rdmsr
	or	eax, SVME
	wrmsr
	mov	ecx, MSR_HSAVE
	lea	rax, [r15 + HOST]
	mov	rdx, rax
	shr	rdx, 32
	wrmsr
	test	rbx, rbx
	jz	enter
	rdtsc
	shl	rdx, 32
	or	rax, rdx
	xor	edx, edx
	div	rbx
	sub	rbx, rdx
	shr	rbx, 2				# a turn takes 4 ns where instructions are counted
	inc	rbx
1:	dec	rbx
	jnz	1b
	jmp	enter

# The instruction is done with, of ECX bytes.
behind:
	add	[r15 + V_RIP], rcx
behind_it:
	cmp	qword ptr [r15 + STATE + S_GHCB], 0
	jne	answered
	mov	dword ptr [r15 + V_SHADOW], 0
	# A guest that single-steps is told (SDM vol. 3B, 17.3.1.4).
	test	dword ptr [r15 + V_RFLAGS], TF
	jz	enter
	or	dword ptr [r15 + V_DR6], 0x4000
	mov	eax, DEBUG
	mov	[r15 + V_EVENT], rax
enter:	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	jne	parting
	# The guest goes on.
going:
	# QEMU empties its TLB for each of these bits that VMRUN or the way back changes (helper_vmrun,
	# do_vmexit, cpu_x86_update_cr4). The monitor's own memory is the same with all of them.
	mov	rax, [r15 + V_CR4]
	and	eax, FLUSHING
	cmp	eax, [r15 + STATE + S_CR4]
	jne	follow
back:	guest	mov, rcx, 1
	guest	mov, rdx, 2
	guest	mov, rbx, 3
	guest	mov, rbp, 5
	guest	mov, rsi, 6
	guest	mov, rdi, 7
.irp number, 8, 9, 10, 11, 12, 13, 14
	guest	mov, r\number, \number
.endr
	mov	rax, r15
	guest	mov, r15, 15
onward:	vmrun	rax
	mov	[rax + STATE + 8 * 15], r15
	mov	r15, rax
	mov	[r15 + STATE + 8 * 1], rcx
	mov	[r15 + STATE + 8 * 2], rdx
	mov	[r15 + STATE + 8 * 3], rbx
	mov	[r15 + STATE + 8 * 5], rbp
	mov	[r15 + STATE + 8 * 6], rsi
	mov	[r15 + STATE + 8 * 7], rdi
.irp number, 8, 9, 10, 11, 12, 13, 14
	mov	[r15 + STATE + 8 * \number], r\number
.endr
	mov	qword ptr [r15 + V_EVENT], 0
	mov	qword ptr [r15 + STATE + S_ASKING], 0
	mov	rax, [r15 + V_RAX]
	mov	[r15 + STATE + 8 * 0], rax
	mov	rax, [r15 + V_RSP]
	mov	[r15 + STATE + 8 * 4], rax
	mov	ebx, [r15 + V_EXIT]
	mov	r12, [r15 + V_INFO1]
	test	byte ptr [r15 + V_INTERRUPT + 3], V_MASKING >> 24
	jnz	release
known:	cmp	ebx, EXIT_SMI
	je	smi
	cmp	qword ptr [rip + start + DATA + M_DOMAIN], 0
	jne	domain
	cmp	qword ptr [rip + start + DATA + M_GHCB_MSR], 0
	jne	encrypted
natively:
	cmp	ebx, EXIT_NESTED
	je	nested
	cmp	ebx, EXIT_IO
	je	io
	cmp	ebx, EXIT_MSR
	je	msr
	cmp	ebx, EXIT_CPUID
	je	cpuid_
	cmp	ebx, EXIT_RDTSC
	je	counter
	cmp	ebx, EXIT_RDTSCP
	je	counter
	cmp	ebx, EXIT_HLT
	je	sleep
	cmp	ebx, EXIT_INTERRUPT
	je	interrupt
	cmp	ebx, EXIT_SHUTDOWN
	je	shutdown
	cmp	ebx, EXIT_VMMCALL
	jne	1f
	cmp	byte ptr [r15 + V_CPL], 0
	jne	1f
	mov	rax, [r15 + V_RIP]
	cmp	rax, [rip + start + DATA + M_TELLER]
	je	tell
1:	lea	eax, [rbx - EXIT_VMRUN]
	cmp	eax, EXIT_SKINIT - EXIT_VMRUN
	ja	unknown
	# CPUs without SVM do not know its instructions, and the guest has been told that it has none.
	mov	eax, UNDEFINED
raise:	mov	[r15 + V_EVENT], rax
	jmp	enter

# The guest has given up: so does this vCPU. What the guest was about stays in the VMCB.
shutdown:
	mov	rax, [r15 + V_CR2]
	mov	cr2, rax
	lidt	[r15 + STATE + S_NOTHING]
	ud2

# The monitor's CR4 is the guest's, in these.
follow:	mov	[r15 + STATE + S_CR4], eax
	mov	rcx, cr4
	and	ecx, ~FLUSHING
	or	eax, ecx
	mov	cr4, rax
	jmp	back

# Who takes records sees it.
unknown:
	mov	[rip + start + DATA + M_UNKNOWN], rbx
	pause
	jmp	unknown

# ---- records

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
.irp field, R_CPL, R_RFLAGS, R_RIP, R_NEXT, R_CR3
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

# Says in the record at R13 what the guest is about. RAX, RCX, RDX, RSI and RDI are lost.
describe:
	rdtsc
	mov	[r13 + R_TSC], eax
	mov	[r13 + R_TSC + 4], edx
	xor	eax, eax
	mov	[r13 + R_ALIAS], rax
	mov	[r13 + R_THREAD], eax
	mov	[r13 + R_VALUE], rax
	mov	[r13 + R_VALUE + 8], rax
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
	ret

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

# ---- ports

io:	# Where PCI configuration is written to, a device may move.
	mov	eax, r12d
	shr	eax, 16
	and	eax, ~3
	cmp	eax, 0xcfc
	jne	1f
	test	r12b, 1
	jnz	1f
	lock or	byte ptr [rip + start + DATA + C_SITES], MOVED
1:	cmp	qword ptr [rip + start + DATA + M_PORTS], 0
	je	unrecorded
	mov	edx, r12d
	shr	edx, 16
	call	flagged
	call	begin
	mov	dword ptr [r13 + R_SITE], K_PORT
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	mov	[r13 + R_MANNER], al
	mov	edx, r12d
	shr	edx, 16
	mov	[r13 + R_ADDRESS], rdx
	test	r12b, 4
	jnz	string
	mov	rcx, [r15 + V_INFO2]
	sub	rcx, [r15 + V_RIP]
	mov	rax, [r15 + V_RAX]
	test	r12b, 1
	jnz	in_
	mov	byte ptr [r13 + R_MANNER + 1], 1
	call	out_told
	if_asked	ask
	jc	1f
	call	commit
	mov	rax, [r15 + V_RAX]
	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	je	2f
	mov	eax, [r13 + R_VALUE]
2:	call	out_made
1:	if_asked	made
	call	end
	jmp	8f
in_:	if_asked	ask
	jc	1f
	call	in_made
	call	in_told
1:	if_asked	made
	mov	rax, [r15 + V_RAX]
	call	in_taken
	mov	[r15 + V_RAX], rax
	call	commit
	call	end
8:	mov	rcx, [r15 + V_INFO2]
	mov	[r15 + V_RIP], rcx
	# Where a device has moved to, pages may have been RAM, which nothing faults at yet: that is
	# looked at before the guest goes on.
	mov	eax, r12d
	shr	eax, 16
	and	eax, ~3
	cmp	eax, 0xcfc
	jne	behind_it
	test	r12b, 1
	jnz	behind_it
	mov	rax, [rip + start + DATA + M_LOOK_AT]
	test	rax, rax
	jz	behind_it
	mov	rax, [rax]
looked:	jmp	behind_it

# No ports are recorded.
unrecorded:
	mov	edx, r12d
	shr	edx, 16
	lea	r13, [r15 + STATE + S_SCRATCH]
	xor	ebp, ebp
	test	r12b, 4
	jz	1f
	call	describe
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	mov	[r13 + R_MANNER], al
	mov	[r13 + R_ADDRESS], rdx
	jmp	string
1:	mov	rax, [r15 + V_RAX]
	test	r12b, 1
	jnz	1f
	call	out_made
	jmp	8b
1:	call	in_made
	mov	[r15 + V_RAX], rax
	jmp	8b

# In: RAX, whose low bytes go to the port in EDX.
out_made:
	test	r12b, 0x10
	jz	1f
	out	dx, al
	ret
1:	test	r12b, 0x20
	jz	1f
	out	dx, ax
	ret
1:	out	dx, eax
	ret
# In and out: RAX, whose low bytes come from the port in EDX.
in_made:
	test	r12b, 0x10
	jz	1f
	in	al, dx
	ret
1:	test	r12b, 0x20
	jz	1f
	in	ax, dx
	ret
1:	in	eax, dx
	ret
# In and out: RAX, whose low bytes are what was read.
in_taken:
	test	r12b, 0x10
	jz	1f
	mov	al, [r13 + R_VALUE]
	ret
1:	test	r12b, 0x20
	jz	1f
	mov	ax, [r13 + R_VALUE]
	ret
1:	mov	eax, [r13 + R_VALUE]
	ret
out_told:
in_told:
	test	r12b, 0x10
	jz	1f
	mov	[r13 + R_VALUE], al
	ret
1:	test	r12b, 0x20
	jz	1f
	mov	[r13 + R_VALUE], ax
	ret
1:	mov	[r13 + R_VALUE], eax
	ret

# ---- asking

# In: RDX = the number of a bit in FLAGS. Out: whether somebody is to be asked about this input, in
# ASKING. RAX, RDX and R8 are lost.
flagged:
	mov	r8, [r15 + V_IOPM]
	bt	qword ptr [r8 + FLAGS], rdx
	jc	1f
	cmp	qword ptr [r8 + FROM], 0
	je	2f
	rdtsc
	shl	rdx, 32
	or	rax, rdx
	cmp	rax, [r8 + FROM]
	jb	2f
1:	mov	qword ptr [r15 + STATE + S_ASKING], 1
	ret
2:	mov	qword ptr [r15 + STATE + S_ASKING], 0
	ret

# ---- call chains

.if STACKS
# The stack of the kernel above RSP, and the one that it was switched to from: as the common code
# has them (common.S, stacks).
stacks:	test	rbp, rbp
	jz	9f
	mov	r8, rbp
	control	and, r8, C_RING_MASK
	shl	r8, STACK_SHIFT
	control	add, r8, C_STACKS
	control	sub, r8, C_RING
	lea	rax, [rip + start + DATA + RING]
	add	r8, rax
	xor	eax, eax
	mov	[r8 + K_FIRST], rax
	mov	[r8 + K_SIZE], rax
	mov	[r8 + K_STATE], rax
	cmp	dword ptr [r13 + R_CPL], 0
	jne	9f
	control	mov, rdx, C_STATE
	call	settled
	jc	1f
	mov	rax, [rax]
	mov	[r8 + K_STATE], rax
1:	lea	r9, [r8 + STACK_SIZE]
	lea	r10, [r8 + K_DATA]
	mov	rdx, [r13 + R_GPR + 8 * 4]
	call	run
	lea	rax, [r10 - K_DATA]
	sub	rax, r8
	mov	[r8 + K_FIRST], rax
	jz	2f
	mov	rdx, [r10 - 8]
	mov	[r8 + K_NEXT], rdx
	test	rdx, rdx
	jns	1f			# no stack of the kernel's
	call	run
1:
	lea	rax, [r10 - K_DATA]
	sub	rax, r8
2:	mov	[r8 + K_SIZE], rax
9:	ret

# In: RDX = the linear address of a stack, R10 -> where its copy goes, as far as R9. Out: R10.
run:	test	dl, 7
	jnz	2f
1:	cmp	r10, r9
	jae	2f
	control	cmp, rdx, C_STACK_END
	je	2f
	call	translate
	jc	2f
	control	mov, rcx, C_RESERVED
	test	[r15 + STATE + S_LEAF], rcx
	jnz	2f
	mov	rsi, rax
	mov	ecx, edx
	or	rcx, -4096
	neg	rcx			# to the end of the page
	mov	rax, r9
	sub	rax, r10
	cmp	rcx, rax
	cmova	rcx, rax
	add	rdx, rcx
	mov	rdi, r10
	add	r10, rcx
	shr	ecx, 3
	copy_all
	jmp	1b
2:	ret
.endif

# ---- the guest's memory

# As `walk`, but CF too where it is no memory that it leads to.
translate:
	call	walk
	jc	1f
	in_ram	rax, rdi, 2f
	clc
1:	ret
2:	stc
	ret

# In: RDX = a linear address. Out: CF, or RAX = the physical one, R11 = all entries ANDed, and what
# the last one is in LEAF. RCX and RDI are lost. Tables are read in memory alone.
walk:	mov	r11, -1
	mov	qword ptr [r15 + STATE + S_LEAF], 0
	mov	rax, rdx
	xor	edi, edi
	bt	qword ptr [r15 + V_CR0], 31
	jnc	8f
	test	dword ptr [r15 + V_EFER], 0x400		# LMA
	jz	5f
	mov	ecx, 39
	bt	qword ptr [r15 + V_CR4], 12
	jnc	1f
	mov	ecx, 48
1:	mov	rax, [r15 + V_CR3]
2:	control	and, rax, C_ADDRESS
	in_ram	rax, rdi, 9f
	mov	rdi, rdx
	shr	rdi, cl
	and	edi, 511
	mov	rax, [rax + rdi * 8]
	and	r11, rax
	test	al, 1
	jz	9f
	cmp	ecx, 12
	je	3f
	cmp	ecx, 39
	jae	4f
	test	al, 0x80
	jnz	3f
4:	sub	ecx, 9
	jmp	2b
3:	mov	[r15 + STATE + S_LEAF], rax
	mov	edi, 1
	shl	rdi, cl
	dec	rdi
	mov	rcx, rdi
	control	and, rax, C_ADDRESS
	not	rcx
	and	rax, rcx
	and	rdi, rdx
	or	rax, rdi
8:	clc
	ret
9:	stc
	ret
	# Outside long mode: a root of four entries, or tables of 1024 (SDM vol. 3A, 4.3 and 4.4).
5:	mov	edx, edx
	mov	eax, [r15 + V_CR3]
	bt	qword ptr [r15 + V_CR4], 5
	jnc	6f
	and	eax, ~31
	in_ram	rax, rdi, 9b
	mov	edi, edx
	shr	edi, 30
	mov	rax, [rax + rdi * 8]
	test	al, 1
	jz	9b
	mov	ecx, 21
	jmp	2b
6:	and	eax, ~4095
	in_ram	rax, rdi, 9b
	mov	edi, edx
	shr	edi, 22
	mov	eax, [rax + rdi * 4]
	and	r11, rax
	test	al, 1
	jz	9b
	test	al, 0x80
	jz	7f
	bt	qword ptr [r15 + V_CR4], 4
	jnc	7f
	mov	[r15 + STATE + S_LEAF], rax
	mov	ecx, eax
	shr	ecx, 13
	movzx	ecx, cl
	shl	rcx, 32
	and	eax, 0xffc00000
	or	rax, rcx
	mov	edi, edx
	and	edi, 0x3fffff
	or	rax, rdi
	clc
	ret
7:	and	eax, ~4095
	in_ram	rax, rdi, 9b
	mov	edi, edx
	shr	edi, 12
	and	edi, 1023
	mov	eax, [rax + rdi * 4]
	and	r11, rax
	test	al, 1
	jz	9b
	mov	ecx, 12
	jmp	3b

ram_ranges

ways_through

# ---- the guest's code

# Out: CF where the instruction is vetrace's own, in the window or in the stub. RAX is lost.
own:	mov	rax, [r15 + V_RIP]
	sub	rax, [r15 + STATE + S_OWN]
	cmp	rax, [r15 + STATE + S_OWN_SIZE]
	jb	1f
	mov	rax, [r15 + V_RIP]
	sub	rax, [r15 + STATE + S_STUB]
	cmp	rax, [r15 + STATE + S_STUB_SIZE]
1:	ret

# Out: RAX = how many prefixes the instruction has, R8 -> base of the segment that they name, 0 for
# none; R9 = 1 where they change the size of addresses. RCX, RDX, RSI and RDI are lost.
prefixes:
	xor	r8d, r8d
	xor	r9d, r9d
	mov	rsi, [r15 + V_RIP]
	add	rsi, [r15 + V_CS_BASE]
	mov	r10, rsi
1:	lea	rdx, [rsi - LONGEST]		# another vCPU may be writing prefixes there
	cmp	rdx, r10
	jae	9f
	mov	rdx, rsi
	call	translate
	jc	9f
	mov	al, [rax]
	inc	rsi
	cmp	al, 0x66
	je	1b
	cmp	al, 0xf2
	je	1b
	cmp	al, 0xf3
	je	1b
	cmp	al, 0x67
	je	2f
	lea	rcx, [r15 + V_ES_BASE]
	cmp	al, 0x26
	je	3f
	lea	rcx, [r15 + V_CS_BASE]
	cmp	al, 0x2e
	je	3f
	lea	rcx, [r15 + V_SS_BASE]
	cmp	al, 0x36
	je	3f
	lea	rcx, [r15 + V_DS_BASE]
	cmp	al, 0x3e
	je	3f
	cmp	al, 0x64
	je	4f
	cmp	al, 0x65
	je	4f
	cmp	byte ptr [r13 + R_MANNER + 2], 64
	jne	8f
	and	al, 0xf0
	cmp	al, 0x40
	je	1b
8:	lea	rax, [rsi - 1]
	sub	rax, r10
	ret
2:	mov	r9d, 1
	jmp	1b
	# Outside of 64-bit code alone these have bases.
3:	cmp	byte ptr [r13 + R_MANNER + 2], 64
	je	1b
	mov	r8, rcx
	jmp	1b
	# VMRUN leaves FS and GS as they are (QEMU, helper_vmrun).
4:	movzx	ecx, al
	add	ecx, MSR_FS_BASE - 0x64
	rdmsr
	shl	rdx, 32
	or	rax, rdx
	lea	r8, [r15 + STATE + S_BASE]
	mov	[r8], rax
	jmp	1b
9:	xor	eax, eax
	ret

# ---- strings

# INS and OUTS: one element, and again from the start while it repeats (SDM vol. 2A, INS; REP).
string:	call	prefixes
	mov	r10, rax
	# Addresses have 64, 32 or 16 bits.
	mov	r14, -1
	movzx	eax, byte ptr [r13 + R_MANNER + 2]
	cmp	al, 64
	jne	1f
	test	r9d, r9d
	jz	3f
	mov	r14d, 0xffffffff
	jmp	3f
1:	cmp	al, 32
	sete	al
	movzx	eax, al
	xor	eax, r9d
	mov	r14d, 0xffff
	jz	3f
	mov	r14d, 0xffffffff
3:	test	r12b, 8
	jz	1f
	mov	rax, [r15 + STATE + 8 * 1]
	test	rax, r14
	jz	none
1:	test	r12b, 1
	jnz	ins_
	mov	rbx, [r15 + STATE + 8 * 6]
	lea	rax, [r15 + V_DS_BASE]
	test	r8, r8
	jnz	2f
	mov	r8, rax
2:	mov	byte ptr [r13 + R_MANNER + 1], 1
	jmp	4f
ins_:	mov	rbx, [r15 + STATE + 8 * 7]
	lea	r8, [r15 + V_ES_BASE]
4:	and	rbx, r14
	# In 64-bit code FS and GS alone have a base.
	lea	rax, [r15 + STATE + S_BASE]
	cmp	r8, rax
	je	5f
	cmp	byte ptr [r13 + R_MANNER + 2], 64
	je	6f
5:	add	rbx, [r8]
6:	# Each byte has its place: an element may lie in two pages.
	movzx	r9d, byte ptr [r13 + R_MANNER]
	xor	esi, esi
1:	lea	rdx, [rbx + rsi]
	call	walk
	mov	edi, 0
	jc	string_fault
	# A device that is traced: QEMU tells of a reserved bit with P clear.
	control	mov, rcx, C_RESERVED
	mov	edi, 8
	test	[r15 + STATE + S_LEAF], rcx
	jnz	string_fault
	cmp	byte ptr [r15 + V_CPL], 3
	jne	2f
	mov	edi, 1
	test	r11b, 4
	jz	string_fault
2:	test	r12b, 1
	jz	3f
	mov	edi, 1
	test	r11b, 2
	jnz	3f
	bt	qword ptr [r15 + V_CR0], 16
	jc	string_fault
	cmp	byte ptr [r15 + V_CPL], 3
	je	string_fault
3:	# With nested traps what faults is behind it.
	test	byte ptr [r15 + V_NESTED], 1
	jz	4f
	push	rbp
	push	rsi
	mov	rsi, rax
	mov	ecx, r12d
	and	ecx, 1
	call	reaches
	pop	rsi
	pop	rbp
	jc	string_device
4:	mov	[r15 + STATE + S_PLACES + rsi * 8], rax
	inc	esi
	cmp	esi, r9d
	jb	1b
	mov	edx, [r13 + R_ADDRESS]
	test	r12b, 1
	jnz	9f
	xor	esi, esi
1:	mov	rax, [r15 + STATE + S_PLACES + rsi * 8]
	mov	al, [rax]
	mov	[r13 + R_VALUE + rsi], al
	inc	esi
	cmp	esi, r9d
	jb	1b
	if_asked	ask
	jc	1f
	xor	ecx, ecx
	call	commit
	mov	eax, [r13 + R_VALUE]
	call	out_made
1:	if_asked	made
	jmp	8f
9:	if_asked	ask
	jc	1f
	xor	eax, eax
	call	in_made
	call	in_told
1:	if_asked	made
	xor	esi, esi
1:	mov	rcx, [r15 + STATE + S_PLACES + rsi * 8]
	mov	al, [r13 + R_VALUE + rsi]
	mov	[rcx], al
	inc	esi
	cmp	esi, r9d
	jb	1b
	xor	ecx, ecx
	call	commit
8:	call	end
	# The index goes on, up or down; of the rest of a wider register 32 bits leave nothing.
	lea	rdi, [r15 + STATE + 8 * 6]
	test	r12b, 1
	jz	1f
	lea	rdi, [r15 + STATE + 8 * 7]
1:	test	dword ptr [r15 + V_RFLAGS], DF
	jz	1f
	neg	r9
1:	call	advance
	test	r12b, 8
	jz	8f
	lea	rdi, [r15 + STATE + 8 * 1]
	mov	r9, -1
	call	advance
	mov	rax, [rdi]
	test	rax, r14
	jnz	behind_it_once
8:	mov	rcx, [r15 + V_INFO2]
	mov	[r15 + V_RIP], rcx
	jmp	behind_it
behind_it_once:
	xor	ecx, ecx
	jmp	behind

# In: RDI -> a register that R9 is added to, as far as the mask in R14 goes.
advance:
	mov	rax, [rdi]
	mov	rcx, rax
	add	rcx, r9
	and	rcx, r14
	mov	rdx, r14
	not	rdx
	mov	esi, 0xffffffff
	cmp	r14, rsi
	jne	1f
	xor	edx, edx
1:	and	rax, rdx
	or	rax, rcx
	mov	[rdi], rax
	ret

# Nothing is left to do: the record is not made.
none:	call	forget
	jmp	8b

# In: RAX = a physical address at which the element lies. The guest has come to it.
string_device:
	mov	[r15 + V_INFO2], rax
	mov	dword ptr [r15 + V_DELIVERED], 0
	call	forget
	and	r12d, 1
	add	r12d, r12d			# INS writes
	jmp	nested

# In: EDI = bits P and RSVD of the error code; RDX = the linear address.
string_fault:
	cmp	byte ptr [r15 + V_CPL], 3
	jne	1f
	or	edi, 4
1:	test	r12b, 1
	jz	1f
	or	edi, 2
1:	mov	[r15 + V_CR2], rdx
	call	forget
	mov	eax, PAGE_FAULT
	mov	[r15 + V_EVENT], eax
	mov	[r15 + V_EVENT + 4], edi
	jmp	enter

# No record is made, after all.
forget:	test	rbp, rbp
	jz	1f
	mov	[rip + start + DATA + C_HEAD], rbp
1:	ret

# ---- MSRs

msr:	guest	mov, ecx, 1
	lea	edx, [rcx + MSRS]
	cmp	ecx, MSR_COUNT
	jb	1f
	mov	eax, ecx
	sub	eax, 0xc0000000
	lea	edx, [rax + MSRS + MSR_COUNT]
	cmp	eax, MSR_COUNT
	jb	1f
	sub	eax, 0x10000
	lea	edx, [rax + MSRS + 2 * MSR_COUNT]
	cmp	eax, MSR_COUNT
	jb	1f
	mov	edx, OTHER_MSRS
1:	call	flagged
	call	begin
	mov	dword ptr [r13 + R_SITE], K_MSR
	mov	byte ptr [r13 + R_MANNER], 8
	guest	mov, ecx, 1
	mov	[r13 + R_ADDRESS], rcx
	test	r12b, 1
	jz	1f
	mov	byte ptr [r13 + R_MANNER + 1], 1
	mov	eax, [r15 + V_RAX]
	guest	mov, edx, 2
	mov	[r13 + R_VALUE], eax
	mov	[r13 + R_VALUE + 4], edx
1:	if_asked	ask
	jc	two_made
	mov	eax, [r13 + R_VALUE]
	mov	edx, [r13 + R_VALUE + 4]
	# A CPU without SVM does not have these.
	cmp	ecx, MSR_HSAVE
	je	protection
	cmp	ecx, MSR_VM_CR
	je	protection
	test	r12b, 1
	jnz	5f
	cmp	ecx, MSR_EFER
	jne	1f
	mov	eax, [r15 + V_EFER]
	mov	edx, [r15 + V_EFER + 4]
	and	eax, ~SVME
	jmp	2f
1:	rdmsr				# it may raise #GP: then `protection` is where it goes on
2:	mov	[r13 + R_VALUE], eax
	mov	[r13 + R_VALUE + 4], edx
	jmp	two_made
5:	cmp	ecx, MSR_EFER
	jne	1f
	or	eax, SVME
	# What the CPU keeps of it, this vCPU's own EFER tells; LMA is the guest's.
	mov	ebx, [r15 + V_EFER]
	and	ebx, 0x400
	and	eax, ~0x400
	or	eax, ebx
	mov	[r15 + V_EFER], eax
	mov	[r15 + V_EFER + 4], edx
	jmp	two_made
1:	wrmsr
two_made:
	if_asked	made
	test	r12b, 1
	jnz	two
	mov	eax, [r13 + R_VALUE]
	mov	edx, [r13 + R_VALUE + 4]
	mov	[r15 + V_RAX], rax
	mov	[r15 + STATE + 8 * 2], rdx
two:	mov	r14d, 2
opcode:	call	prefixes
	lea	rcx, [rax + r14]
	mov	[r15 + STATE + S_LENGTH], rcx
	call	commit
	call	end
	mov	rcx, [r15 + STATE + S_LENGTH]
	jmp	behind

# The CPU raises #GP in place of an instruction of the monitor's: so it does in the guest.
protection:
	lea	rsp, [r15 + STATE + STACK_TOP]
	mov	byte ptr [r13 + R_MANNER + 3], 1
	if_asked	made
	mov	rax, [r13 + R_RIP]
	mov	[r13 + R_NEXT], rax
	xor	ecx, ecx
	call	commit
	call	end
	mov	eax, PROTECTION
	cmp	qword ptr [r15 + STATE + S_ASKED], 0
	je	raise
	# The module refuses it, where it finds CF set.
	or	dword ptr [r15 + V_RFLAGS], CF
	mov	ecx, 2
	cmp	dword ptr [r15 + V_EXIT], EXIT_IO
	jne	behind
	mov	rcx, [r15 + V_INFO2]
	sub	rcx, [r15 + V_RIP]
	jmp	behind

# ---- CPUID

cpuid_:
	# The common code asks for the number of its vCPU.
	call	own
	jae	1f
	cmp	qword ptr [r15 + STATE + S_ASKED], 0
	jne	1f
	mov	eax, [r15 + V_RAX]
	guest	mov, ecx, 1
	call	leaf
	mov	[r15 + V_RAX], rax
	mov	[r15 + STATE + 8 * 3], rbx
	mov	[r15 + STATE + 8 * 1], rcx
	mov	[r15 + STATE + 8 * 2], rdx
	mov	ecx, 2
	jmp	behind
1:	mov	eax, [r15 + V_RAX]
	mov	edx, OTHER_LEAVES
	test	eax, 0x3fffff00
	jnz	1f
	movzx	edx, al
	shr	eax, 30
	shl	eax, 8
	lea	edx, [rax + rdx + LEAVES]
1:	call	flagged
	call	begin
	mov	dword ptr [r13 + R_SITE], K_CPUID
	mov	byte ptr [r13 + R_MANNER], 4
	mov	eax, [r15 + V_RAX]
	guest	mov, ecx, 1
	mov	[r13 + R_ADDRESS], eax
	mov	[r13 + R_ADDRESS + 4], ecx
	if_asked	ask
	jc	1f
	call	leaf
	mov	[r13 + R_VALUE], eax
	mov	[r13 + R_VALUE + 4], ebx
	mov	[r13 + R_VALUE + 8], ecx
	mov	[r13 + R_VALUE + 12], edx
1:	if_asked	made
	mov	eax, [r13 + R_VALUE]
	mov	ebx, [r13 + R_VALUE + 4]
	mov	ecx, [r13 + R_VALUE + 8]
	mov	edx, [r13 + R_VALUE + 12]
	mov	[r15 + V_RAX], rax
	mov	[r15 + STATE + 8 * 3], rbx
	mov	[r15 + STATE + 8 * 1], rcx
	mov	[r15 + STATE + 8 * 2], rdx
	jmp	two

# In: EAX, ECX as CPUID has them. Out: what the guest is to be told. What its own CR4 says is not
# what the monitor's does, and nothing tells of SVM (SDM vol. 2A, CPUID; APM vol. 3, appendix E).
# A trust domain is told how fast its time-stamp counter goes: as fast as the crystal. R10 is lost.
leaf:	mov	r9d, eax
	mov	r11d, ecx
	cpuid
	cmp	r9d, 1
	jne	1f
	btr	ecx, 27
	bt	qword ptr [r15 + V_CR4], 18
	jnc	4f
	bts	ecx, 27
	jmp	4f
1:	cmp	r9d, 7
	jne	2f
	test	r11d, r11d
	jnz	4f
	btr	ecx, 4
	bt	qword ptr [r15 + V_CR4], 22
	jnc	4f
	bts	ecx, 4
	jmp	4f
2:	cmp	r9d, 0x80000001
	jne	3f
	btr	ecx, 2
	jmp	4f
3:	cmp	r9d, 0x8000000a
	jne	5f
	xor	eax, eax
	xor	ebx, ebx
	xor	ecx, ecx
	xor	edx, edx
	jmp	4f
5:	mov	r10d, [rip + start + DATA + M_CRYSTAL]
	test	r10d, r10d
	jz	4f
	test	r9d, r9d
	jnz	6f
	cmp	eax, CRYSTAL_LEAF	# the highest leaf that there is
	jae	4f
	mov	eax, CRYSTAL_LEAF
	jmp	4f
6:	cmp	r9d, CRYSTAL_LEAF
	jne	4f
	mov	eax, 1
	mov	ebx, 1
	mov	ecx, r10d
	xor	edx, edx
4:	mov	eax, eax
	mov	ebx, ebx
	mov	ecx, ecx
	mov	edx, edx
	ret

# ---- the time-stamp counter

counter:
	# The common code and the stub ask for the time.
	call	own
	jae	1f
	rdtsc
	mov	eax, eax
	mov	edx, edx
	mov	[r15 + V_RAX], rax
	mov	[r15 + STATE + 8 * 2], rdx
	mov	ecx, 2
	jmp	behind
1:	call	begin
	mov	dword ptr [r13 + R_SITE], K_TSC
	mov	byte ptr [r13 + R_MANNER], 8
	mov	qword ptr [r13 + R_ADDRESS], 0
	# RDTSCP may come with the exit code of RDTSC (QEMU, helper_rdtscp): 0F 01 F9, and 0F 31.
	call	prefixes
	mov	r14d, 2
	mov	rdx, rsi
	call	translate
	jc	1f
	cmp	byte ptr [rax], 1
	jne	1f
	mov	r14d, 3
	mov	ecx, 0xc0000103		# TSC_AUX
	rdmsr
	mov	eax, eax
	mov	[r15 + STATE + 8 * 1], rax
1:	rdtsc
	mov	eax, eax
	mov	edx, edx
	mov	[r15 + V_RAX], rax
	mov	[r15 + STATE + 8 * 2], rdx
	mov	[r13 + R_VALUE], eax
	mov	[r13 + R_VALUE + 4], edx
	jmp	opcode

# ---- interrupts

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

# ---- errands

# A thread of the kernel's tells of its errand, and has left for that (linux/errand_code.py): R11D is
# the entry's end, and the function is above the return address. A full diary is waited for.
tell:	guest	mov, rdx, 4
	add	rdx, 8
	call	translate
	jc	2f
	mov	rbp, [rax]
	mov	rdx, [r15 + V_RIP]
	call	thread
	mov	r14d, eax
1:	lock bts dword ptr [rip + start + DATA + D_LOCK], 0
	jc	4f
	mov	rax, [rip + start + DATA + D_HEAD]
	cmp	rax, [rip + start + DATA + D_LIMIT]
	jae	3f
	and	eax, DIARY_SLOTS - 1
	shl	eax, DIARY_SHIFT
	lea	rdi, [rip + start + DATA + DIARY]
	add	rdi, rax
	rdtsc
	mov	[rdi + D_COUNTER], eax
	mov	[rdi + D_COUNTER + 4], edx
	mov	[rdi + D_FUNCTION], rbp
	mov	[rdi + D_THREAD], r14d
	guest	mov, eax, 11
	mov	[rdi + D_WHAT], eax
	inc	qword ptr [rip + start + DATA + D_HEAD]
	mov	byte ptr [rip + start + DATA + D_LOCK], 0
2:	mov	ecx, 3
	jmp	behind
3:	mov	byte ptr [rip + start + DATA + D_LOCK], 0
	cmp	qword ptr [rip + start + DATA + M_CLOSED], 0
	jne	2b
4:	pause
	jmp	1b

# ---- nested faults

# The guest has come to a page that the nested tables do not have, or not for writing: R12 = the
# error code, INFO2 = the physical address. The common code (common.S) finds what it would find at a
# page fault of a poisoned entry, on this vCPU's own stack.
nested:	mov	rax, [r15 + V_INFO2]
	mov	[r15 + STATE + S_FAULT], rax
	xor	ecx, ecx			# whether it is compiled sites' to try
	mov	rdx, [r15 + V_DELIVERED]
	test	edx, edx
	js	again
	bt	r12, 33				# of a walk of tables: APM vol. 2, 15.25.6
	jc	1f
	test	r12b, E_FETCH
	jnz	1f
	cmp	byte ptr [r15 + V_CPL], 0
	jne	1f
	test	dword ptr [r15 + V_EFER], 0x400		# LMA
	jz	1f
	test	byte ptr [r15 + V_CS_ATTRIBUTES + 1], 2	# L
	jz	1f
	control	cmp, rax, C_REACH
	jb	3f
	control	sub, rax, C_FAR
	control	cmp, rax, C_FAR_SIZE
	jae	1f
	control	add, rax, C_FAR_WINDOW
	jmp	4f
3:	control	add, rax, C_WINDOW
4:	mov	[r15 + STATE + S_ALIAS], rax
	mov	rdx, [r15 + V_RIP]
	call	thread
	mov	[r15 + STATE + S_CURRENT], rax
	mov	ecx, 1
	jmp	1f
	# What was being delivered is, again (APM vol. 2, 15.7.2, 15.20). QEMU tells of an interrupt as
	# of an exception, and refuses it as one (helper_vmrun): it is given as a virtual one. An
	# instruction that raises one is carried out again.
again:	mov	eax, edx
	and	eax, EVENT_TYPE
	cmp	eax, EVENT_SOFTWARE
	je	2f
	cmp	dl, 2
	je	3f
	cmp	dl, FIRST_INTERRUPT
	jb	4f
	movzx	eax, dl
	mov	[r15 + V_VECTOR], eax
	mov	dword ptr [r15 + V_INTERRUPT], V_DUE
2:	xor	edx, edx
	jmp	4f
3:	mov	edx, NMI
4:	mov	[r15 + V_EVENT], rdx
1:	movzx	eax, word ptr [r15 + V_SS]
	push	rax
	push	qword ptr [r15 + V_RSP]
	push	qword ptr [r15 + V_RFLAGS]
	movzx	eax, word ptr [r15 + V_CS]
	push	rax
	push	qword ptr [r15 + V_RIP]
	mov	eax, r12d
	and	eax, E_WRITE | E_FETCH
	or	eax, E_RESERVED
	cmp	byte ptr [r15 + V_CPL], 3
	jne	1f
	or	eax, E_USER
1:	push	rax
	test	ecx, ecx
	guest	mov, rax, 0
	guest	mov, rcx, 1
	guest	mov, rdx, 2
	guest	mov, rbx, 3
	guest	mov, rbp, 5
	guest	mov, rsi, 6
	guest	mov, rdi, 7
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
	guest	mov, r\number, \number
.endr
	jz	1f
	jmp	[rip + start + DATA + M_FAST]
1:	jmp	[rip + start + DATA + C_SLOW]

# It is done with. RSP -> RIP, CS, RFLAGS, RSP, SS; all other registers are the guest's.
done:	push	rax
	push	rcx
	mov	rax, rsp
	and	rax, -4096
	sub	rax, STATE
	mov	rcx, [rsp + 16]
	cmp	rcx, [rax + V_RIP]
	je	1f
	mov	dword ptr [rax + V_SHADOW], 0
1:	pop	rcx
	pop	qword ptr [rax + V_RAX]
	pop	qword ptr [rax + V_RIP]
	add	rsp, 8
	pop	qword ptr [rax + V_RFLAGS]
	pop	qword ptr [rax + V_RSP]
	lea	rsp, [rax + STATE + STACK_TOP]
	jmp	onward

# ---- a trust domain

# The TDX module makes a #VE of an instruction that is the host's to carry out: the guest's handler
# asks for it, and the code of the module (module.S) carries it out, once more for the monitor.
domain:	or	dword ptr [r15 + V_INTERCEPTS], SLEEPS
	mov	qword ptr [r15 + STATE + S_ASKED], 0
	guest	mov, rdx, S_OWNER / 8
	not	rdx
	movzx	edx, dx
	shl	edx, VE_SHIFT
	lea	rcx, [rip + start + DATA + VES]
	add	rdx, rcx
	call	own
	jae	1f
	# The number of the entry in FAULTS, from 1 on, that the module carries out.
	mov	rcx, [rdx + E_ASKED]
	test	ecx, ecx
	jz	natively
	mov	qword ptr [rdx + E_ASKED], 0
	dec	ecx
	and	ecx, FAULT_COUNT - 1
	shl	ecx, SLOT_SHIFT
	lea	rax, [rip + start + DATA + FAULTS]
	add	rax, rcx
	mov	[r15 + STATE + S_ASKED], rax
	jmp	natively
	# R14 = the reason, EBP = what tells one access from another; it goes by the exit code.
1:	mov	r14d, VE_IO
	mov	ebp, r12d
	shr	ebp, 16
	cmp	ebx, EXIT_IO
	je	2f
	mov	r14d, VE_HLT
	xor	ebp, ebp
	cmp	ebx, EXIT_HLT
	je	1f
	mov	r14d, VE_CPUID
	mov	ebp, [r15 + V_RAX]
	cmp	ebx, EXIT_CPUID
	jne	3f
	# The hypervisor's leaves: the module answers the others itself (TDX Module 1.5 ABI, CPUID
	# virtualization). Linux takes those that raise #VE for zeros.
	mov	eax, ebp
	shr	eax, 28
	cmp	eax, 4
	jne	natively
	jmp	1f
3:	cmp	ebx, EXIT_MSR
	jne	natively
	mov	r14d, r12d
	and	r14d, 1
	add	r14d, VE_RDMSR
	guest	mov, ebp, 1
	lea	rsi, [rip + unintercepted]
3:	mov	eax, [rsi]
	mov	ecx, [rsi + 4]
	test	ecx, ecx
	jz	1f
	add	rsi, 8
	cmp	ebp, eax
	jb	3b
	cmp	ebp, ecx
	ja	3b
	jmp	natively
	# The first handler that a kernel of Linux has knows of ports alone (tdx_early_handle_ve).
1:	mov	r10, rdx
	mov	rdx, [r15 + V_IDT]
	add	rdx, GATE
	call	translate
	mov	rdx, r10
	jc	natively
	mov	rax, [rax]
	control	cmp, rax, M_EARLY
	je	natively
2:	cmp	word ptr [r15 + V_IDT_LIMIT], GATE + 15
	jb	kept
	cmp	qword ptr [rdx + E_REASON], 0
	jne	kept			# it has not fetched the last one
	mov	r9, rdx
	# The frame will lie below RSP. A program's handler goes on to another stack: the program is
	# known by its own, and by its page tables. CPUID is all that Linux asks for there.
	mov	rax, [r15 + V_RSP]
	cmp	byte ptr [r15 + V_CPL], 0
	jne	3f
	and	rax, -16
	lea	rdx, [rax - 40]
	jmp	1f
3:	lea	r13, [r15 + STATE + S_SCRATCH]
	cmp	r14d, VE_CPUID
	jne	6f
	shr	rax, 4
	mov	edx, eax
	mov	rax, [r15 + V_CR3]
	shr	rax, 12
	shl	rax, 32
	or	rdx, rax
	btr	rdx, 63
1:
	# An entry which has the same place already is of a handler that has never asked.
	lea	rsi, [rip + start + DATA + KEYS]
	mov	ecx, FAULT_COUNT - 1
3:	cmp	[rsi + rcx * 8], rdx
	je	5f
	dec	ecx
	jns	3b
	mov	ecx, FAULT_COUNT - 1
4:	xor	eax, eax
	lock cmpxchg [rsi + rcx * 8], rdx
	je	5f
	dec	ecx
	jns	4b
	jmp	kept
5:	shl	ecx, SLOT_SHIFT
	lea	r13, [rip + start + DATA + FAULTS]
	add	r13, rcx
6:	mov	[r13 + R_TAG], ebp
	mov	[r13 + R_TAG + 4], r14d
	mov	rbx, r9
	call	describe
	call	prefixes
	mov	r9, rax
	lea	rdx, [rsi - 1]
	mov	ecx, 1
	cmp	r14d, VE_HLT
	je	2f
	mov	ecx, 2
	cmp	r14d, VE_IO
	jne	2f
	# Intel SDM vol. 3C, table 28-5, out of AMD's EXITINFO1 (APM vol. 2, 15.10.2).
	call	translate
	jc	3f
	mov	al, [rax]
	xor	edx, edx
	test	al, 8
	jnz	3f
	mov	edx, 1 << 6		# the port is in the code
	jmp	4f
3:	xor	edx, edx
4:	mov	eax, r12d
	and	eax, 0xffff0000
	or	edx, eax
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	dec	eax
	or	edx, eax
	mov	eax, r12d
	and	eax, 1
	shl	eax, 3
	or	edx, eax
	mov	eax, r12d
	and	eax, 0xc
	shl	eax, 2
	or	edx, eax
	mov	rcx, [r15 + V_INFO2]
	sub	rcx, [r15 + V_RIP]
	jmp	3f
2:	add	rcx, r9
	xor	edx, edx
3:	mov	[rbx + E_QUALIFICATION], rdx
	mov	[rbx + E_LENGTH], rcx
	add	rcx, [r13 + R_RIP]
	mov	[r13 + R_NEXT], rcx
	xor	eax, eax
	mov	[rbx + E_GLA], rax
	mov	[rbx + E_GPA], rax
	mov	[rbx + E_REASON], r14
	mov	[r15 + V_SHADOW], eax
	lock inc qword ptr [rip + start + DATA + N_RAISED]
	mov	eax, VIRTUALIZATION
	jmp	raise
kept:	lock inc qword ptr [rip + start + DATA + N_KEPT]
	jmp	natively

# MSRs, from the first to the last, that a trust domain accesses itself, and a pair with 0 (TDX
# Module 1.5 ABI, MSR virtualization; Linux arch/x86/kvm/vmx/tdx.c, tdx_has_emulated_msr).
unintercepted:
	.long	0x10, 0x10		# TSC
	.long	0x48, 0x49		# SPEC_CTRL, PRED_CMD
	.long	0xe1, 0xe1		# UMWAIT_CONTROL
	.long	0x10a, 0x10b		# ARCH_CAPABILITIES, FLUSH_CMD
	.long	0x122, 0x122		# TSX_CTRL
	.long	0x174, 0x176		# SYSENTER_CS, ESP, EIP
	.long	0x1c4, 0x1c5		# XFD, XFD_ERR
	.long	0x1d9, 0x1d9		# DEBUGCTL
	.long	0x277, 0x277		# PAT
	.long	0x600, 0x600		# DS_AREA
	.long	0x6a0, 0x6a8		# CET
	.long	0x6e1, 0x6e1		# PKRS
	.long	0x808, 0x80b		# x2APIC: TPR, PPR, EOI
	.long	0x810, 0x827		# ISR, TMR, IRR
	.long	0x83f, 0x83f		# SELF IPI
	.long	0xda0, 0xda0		# XSS
	.long	MSR_EFER, 0xc0000084	# EFER, STAR, LSTAR, CSTAR, FMASK
	.long	MSR_FS_BASE, 0xc0000103	# FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX
	.long	0, 0

# The vCPU sleeps in the guest. STI in front of it holds interrupts off until it does, which VMRUN
# does not bring back: so it begins there once more.
sleep:	and	dword ptr [r15 + V_INTERCEPTS], ~SLEEPS
shadowed:
	test	dword ptr [r15 + V_SHADOW], 1
	jz	enter
	mov	dword ptr [r15 + V_SHADOW], 0
	mov	rdx, [r15 + V_RIP]
	add	rdx, [r15 + V_CS_BASE]
	dec	rdx
	call	translate
	jc	enter
	cmp	byte ptr [rax], STI
	jne	enter
	dec	qword ptr [r15 + V_RIP]
	and	dword ptr [r15 + V_RFLAGS], ~IF
	jmp	enter

# ---- an encrypted guest

# In a guest of SEV-ES an instruction that the host intercepts raises #VC, whose error code is the
# exit code (APM vol. 2, 15.35.5). The guest's handler decodes it, puts what it asks for into the
# GHCB, and calls by VMGEXIT, which is REP VMMCALL: that is carried out here, as far as it is hot.

# Offsets in a GHCB (GHCB specification 2.03, table 3), and bits of the bytes that say what is valid.
.set H_RAX, 0x1f8
.set H_RCX, 0x308
.set H_RDX, 0x310
.set H_RBX, 0x318
.set H_CODE, 0x390
.set H_INFO1, 0x398
.set H_INFO2, 0x3a0
.set H_SCRATCH, 0x3a8
.set H_VALID, 0x3f0
.set H_BUFFER, 0x800
.set H_BUFFER_END, 0xff0
.set H_USAGE, 0xffc
.set VALID_RAX, 0x80			# of byte 7
.set VALID_RCX, 2			# of byte 12
.set VALID_RDX, 4
.set VALID_RBX, 8
.set VALID_EXIT, 0x1c			# of byte 14: the code, and both pieces of information
.set VALID_INFO, 0x18
.set VALID_SCRATCH, 0x20
.set VALID_XCR0, 0x20			# of byte 15

.set GIVES_RAX, 1
.set GIVES_RBX, 2
.set GIVES_RCX, 4
.set GIVES_RDX, 8
.set REP, 0xf3
.set VMGEXIT_SIZE, 4
.set ASK_CPUID, 4
.set ISSUE_EXCEPTION, 1
.set ISSUED, 0x8000030d			# #GP (APM vol. 2, 15.20)
.set SAME_PORT, 0xffff007d		# of EXITINFO1 what QEMU tells: port, width, REP, string, IN
.set STRING, 4
.set REPEATS, 8
.set XSTATE_LEAF, 0xd
.set LEFT_OFF, 0x34100			# VM, RF, NT, TF

encrypted:
	mov	qword ptr [r15 + STATE + S_ASKED], 0
	call	own
	jb	natively
	xor	ebp, ebp
	cmp	ebx, EXIT_VMMCALL
	je	call_or_not
	cmp	ebx, EXIT_MSR
	je	2f
	cmp	ebx, EXIT_IO
	je	4f
	lea	rsi, [rip + nonautomatic]
1:	movzx	eax, byte ptr [rsi]
	test	eax, eax
	jz	natively
	inc	rsi
	cmp	eax, ebx
	jne	1b
	jmp	communicate
	# Of those that the guest accesses itself, this one alone is intercepted.
2:	cmp	dword ptr [r15 + STATE + 8 * 1], MSR_EFER
	je	natively
	mov	ebp, r12d
	and	ebp, 1
	jmp	communicate
	# A string of no elements accesses nothing.
4:	mov	ebp, r12d
	not	r12d
	test	r12b, STRING | REPEATS
	not	r12d
	jnz	communicate
	cmp	qword ptr [r15 + STATE + 8 * 1], 0
	je	natively

# In: EBX = the exit code, EBP = what tells one access from another: EXITINFO1, as far as it has any.
communicate:
	mov	r14d, ebx
	mov	qword ptr [r15 + STATE + S_LEAF_NUMBER], 0
	# Handlers run with interrupts off: where they are on, none is under way.
	guest	mov, rax, S_DEPTH / 8
	cmp	byte ptr [r15 + V_CPL], 0
	jne	1f
	test	dword ptr [r15 + V_RFLAGS], IF
	jnz	1f
	cmp	eax, PENDING_COUNT
	jb	2f
1:	lock add [rip + start + DATA + N_UNASKED], rax
	xor	eax, eax
2:	mov	ecx, eax
	inc	eax
	mov	[r15 + STATE + S_DEPTH], rax
	shl	ecx, SLOT_SHIFT
	lea	r13, [r15 + STATE + S_PENDING]
	add	r13, rcx
	mov	[r13 + R_TAG], ebp
	call	describe
	call	prefixes
	lea	rbp, [rax + 2]
	# RDTSCP may come with the exit code of RDTSC (QEMU, helper_rdtscp): 0F 01 F9, and 0F 31.
	cmp	r14d, EXIT_RDTSC
	jne	3f
	mov	rdx, rsi
	call	translate
	jc	3f
	cmp	byte ptr [rax], 1
	jne	3f
	mov	r14d, EXIT_RDTSCP
3:	cmp	r14d, EXIT_RDTSCP
	jne	4f
	inc	rbp
4:	add	rbp, [r13 + R_RIP]
	cmp	r14d, EXIT_IO
	jne	5f
	mov	rbp, [r15 + V_INFO2]
	add	rbp, [r15 + V_CS_BASE]
5:	mov	[r13 + R_NEXT], rbp
	mov	[r13 + R_TAG + 4], r14d
	lock inc qword ptr [rip + start + DATA + N_RAISED]

	# QEMU knows of no error code of #VC's: the frame is made here, on the stack that the gate names
	# (APM vol. 2, 8.9).
	cmp	word ptr [r15 + V_IDT_LIMIT], 16 * VC + 15
	jb	unhandled
	mov	rdx, [r15 + V_IDT]
	add	rdx, 16 * VC
	call	translate
	jc	unhandled
	mov	r8, [rax]
	mov	r9, [rax + 8]
	mov	rax, r8
	shr	rax, 40
	and	eax, 0x9e
	cmp	eax, 0x8e			# present, an interrupt or a trap gate
	jne	unhandled
	mov	rbx, [r15 + V_RSP]
	mov	rcx, r8
	shr	rcx, 32
	and	ecx, 7
	lea	edx, [rcx * 8 + 0x1c]		# the TSS has IST 1 at 0x24, RSP 0 at 4
	jnz	1f
	mov	edx, 4
	cmp	byte ptr [r15 + V_CPL], 0
	je	2f
1:	mov	rax, r15			# TR is not switched by VMRUN
	vmsave	rax
	add	rdx, [r15 + V_TR_BASE]
	call	translate
	jc	unhandled
	mov	rbx, [rax]
2:	and	rbx, -16
	sub	rbx, 48
	mov	[r15 + STATE + S_FRAME], r14
	mov	rax, [r15 + V_RIP]
	mov	[r15 + STATE + S_FRAME + 8], rax
	movzx	eax, word ptr [r15 + V_CS]
	mov	[r15 + STATE + S_FRAME + 16], rax
	mov	rax, [r15 + V_RFLAGS]
	mov	[r15 + STATE + S_FRAME + 24], rax
	mov	rax, [r15 + V_RSP]
	mov	[r15 + STATE + S_FRAME + 32], rax
	movzx	eax, word ptr [r15 + V_SS]
	mov	[r15 + STATE + S_FRAME + 40], rax
	xor	r10d, r10d
3:	lea	rdx, [rbx + r10 * 8]
	add	r12, 8
	test	r10d, r10d
	jz	4f
	test	edx, 0xfff
	jnz	5f
4:	call	translate
	jc	unhandled
	mov	r12, rax
5:	mov	rcx, [r15 + STATE + S_FRAME + r10 * 8]
	mov	[r12], rcx
	inc	r10d
	cmp	r10d, 6
	jb	3b
	mov	[r15 + V_RSP], rbx
	mov	rcx, r8
	shr	rcx, 16
	and	ecx, 0xfffc
	mov	[r15 + V_CS], cx
	mov	word ptr [r15 + V_CS_ATTRIBUTES], 0xa9b
	mov	dword ptr [r15 + V_CS_LIMIT], -1
	mov	qword ptr [r15 + V_CS_BASE], 0
	cmp	byte ptr [r15 + V_CPL], 0
	je	6f
	mov	dword ptr [r15 + V_SS], 0	# and its attributes
	mov	byte ptr [r15 + V_CPL], 0
6:	mov	eax, LEFT_OFF | IF
	bt	r8, 40				# a trap gate
	jnc	7f
	mov	eax, LEFT_OFF
7:	not	rax
	and	[r15 + V_RFLAGS], rax
	movzx	eax, r8w
	shr	r8, 48
	shl	r8d, 16
	or	eax, r8d
	shl	r9, 32
	or	rax, r9
	mov	[r15 + V_RIP], rax
	mov	dword ptr [r15 + V_SHADOW], 0
	jmp	enter
unhandled:
	mov	ebx, r14d
	jmp	unknown

# What the host intercepts beside IOIO, MSRs and VMMCALL (Linux arch/x86/kvm/svm/svm.c, init_vmcb, and
# sev.c, sev_es_init_vmcb); the VMCB says for which of them the guest leaves.
nonautomatic:
	.byte	EXIT_READ_DR7, EXIT_WRITE_DR7, EXIT_RDTSC, EXIT_RDPMC, EXIT_CPUID, EXIT_INVD, EXIT_RDTSCP
	.byte	EXIT_WBINVD, EXIT_MONITOR, EXIT_MWAIT, 0
	.balign	4, 0xcc

call_or_not:
	mov	rdx, [r15 + V_RIP]
	add	rdx, [r15 + V_CS_BASE]
	call	translate
	jc	communicate
	cmp	byte ptr [rax], REP
	jne	communicate
	cmp	byte ptr [r15 + V_CPL], 0
	jne	to_stub
	mov	ecx, [rip + start + DATA + M_GHCB_MSR]
	rdmsr
	shl	rdx, 32
	or	rax, rdx
	jz	to_stub
	test	eax, 0xfff
	jnz	protocol
	call	is_ram
	jnc	to_stub
	mov	r8, rax
	cmp	dword ptr [r8 + H_USAGE], 0
	jne	to_stub
	mov	al, [r8 + H_VALID + 14]
	not	al
	test	al, VALID_EXIT
	jnz	to_stub
	mov	r14, [r8 + H_CODE]
	mov	rax, r14
	shr	rax, 32
	jnz	to_stub
	mov	r12, [r8 + H_INFO1]
	# Of the instructions that it may be about, it is the innermost.
	guest	mov, rcx, S_DEPTH / 8
	mov	r9d, ecx
1:	dec	r9d
	js	to_stub
	mov	eax, r9d
	shl	eax, SLOT_SHIFT
	lea	r13, [r15 + STATE + S_PENDING]
	add	r13, rax
	cmp	[r13 + R_TAG + 4], r14d
	jne	1b
	mov	[r15 + STATE + S_DEPTH], r9
	sub	ecx, r9d
	dec	ecx
	lock add [rip + start + DATA + N_UNASKED], rcx
	xor	edx, edx
	cmp	r14d, EXIT_IO
	je	8f
	cmp	r14d, EXIT_MSR
	je	4f
	mov	edx, GIVES_RAX | GIVES_RDX
	cmp	r14d, EXIT_RDTSC
	je	asked
	mov	edx, GIVES_RAX | GIVES_RDX | GIVES_RCX
	cmp	r14d, EXIT_RDTSCP
	je	asked
	cmp	r14d, EXIT_CPUID
	je	3f
	lock inc qword ptr [rip + start + DATA + N_ANSWERED]
to_stub:				# the stub takes VMGEXIT there
	mov	eax, UNDEFINED
	jmp	raise

3:	mov	edx, GIVES_RAX | GIVES_RBX | GIVES_RCX | GIVES_RDX
	test	byte ptr [r8 + H_VALID + 7], VALID_RAX
	jz	to_stub
	test	byte ptr [r8 + H_VALID + 12], VALID_RCX
	jz	to_stub
	mov	eax, [r8 + H_RAX]
	cmp	eax, [r13 + R_GPR]
	jne	to_stub
	mov	ecx, [r8 + H_RCX]
	cmp	ecx, [r13 + R_GPR + 8]
	jne	to_stub
	cmp	eax, XSTATE_LEAF
	jne	asked
	test	byte ptr [r8 + H_VALID + 15], VALID_XCR0
	jz	to_stub
	jmp	asked

4:	mov	eax, [r13 + R_TAG]
	cmp	rax, r12
	jne	to_stub
	test	byte ptr [r8 + H_VALID + 12], VALID_RCX
	jz	to_stub
	mov	eax, [r8 + H_RCX]
	cmp	eax, [r13 + R_GPR + 8]
	jne	to_stub
	mov	edx, GIVES_RAX | GIVES_RDX
	test	r12d, r12d
	jz	asked
	xor	edx, edx
	test	byte ptr [r8 + H_VALID + 7], VALID_RAX
	jz	to_stub
	test	byte ptr [r8 + H_VALID + 12], VALID_RDX
	jz	to_stub
	mov	eax, [r8 + H_RAX]
	cmp	eax, [r13 + R_GPR]
	jne	to_stub
	mov	eax, [r8 + H_RDX]
	cmp	eax, [r13 + R_GPR + 16]
	jne	to_stub
	jmp	asked

8:	mov	eax, r12d
	xor	eax, [r13 + R_TAG]
	test	eax, SAME_PORT
	jnz	to_stub
	test	r12b, STRING
	jnz	elements
	test	r12b, 1
	jz	1f
	mov	edx, GIVES_RAX
	jmp	asked
1:	test	byte ptr [r8 + H_VALID + 7], VALID_RAX
	jz	to_stub
	mov	rcx, [r8 + H_RAX]
	xor	rcx, [r13 + R_GPR]
	mov	eax, 0xff
	test	r12b, 0x10
	jnz	2f
	mov	eax, 0xffff
	test	r12b, 0x20
	jnz	2f
	mov	eax, 0xffffffff
2:	test	ecx, eax
	jnz	to_stub

# In: R8 -> the GHCB, R13 -> the instruction, EDX = what is given back, R14 = the event, R12 =
# EXITINFO1. It is carried out as if the guest did it, with the registers of the GHCB.
asked:
	lock inc qword ptr [rip + start + DATA + N_ANSWERED]
	mov	[r15 + STATE + S_GIVES], rdx
	call	keep
	mov	rax, [r8 + H_RAX]
	cmp	r14d, EXIT_IO
	jne	1f
	test	r12b, 1
	jz	1f
	xor	eax, eax
1:	mov	[r15 + V_RAX], rax
	mov	rax, [r8 + H_RCX]
	mov	[r15 + STATE + 8 * 1], rax
	mov	rax, [r8 + H_RDX]
	mov	[r15 + STATE + 8 * 2], rax
	mov	ebx, r14d
	jmp	natively

# From here on to `answered` the guest is carried out in the place of its handler. RAX is lost.
keep:	mov	[r15 + STATE + S_GHCB], r8
	mov	[r15 + STATE + S_ASKED], r13
	mov	rax, [r15 + V_RAX]
	mov	[r15 + STATE + S_SAVED], rax
	guest	mov, rax, 1
	mov	[r15 + STATE + S_SAVED + 8], rax
	guest	mov, rax, 2
	mov	[r15 + STATE + S_SAVED + 16], rax
	guest	mov, rax, 3
	mov	[r15 + STATE + S_SAVED + 24], rax
	mov	rax, [r15 + V_RIP]
	mov	[r15 + STATE + S_SAVED + 32], rax
	mov	rax, [r15 + V_RFLAGS]
	mov	[r15 + STATE + S_SAVED + 40], rax
	ret

# In: RAX = a request of the MSR protocol (GHCB specification 2.03, 2.3.1), which guests speak before
# they have a GHCB. Of CPUID it asks for a register at a time: the first has the leaf carried out, with
# a record of the instruction that has raised #VC, and the others are of the same.
protocol:
	mov	ecx, eax
	and	ecx, 0x3fffffff
	cmp	ecx, ASK_CPUID
	jne	requested
	mov	r14, rax
	shr	r14, 32
	bts	r14, 32
	cmp	r14, [r15 + STATE + S_LEAF_NUMBER]
	je	2f
	guest	mov, rcx, S_DEPTH / 8
	dec	ecx
	js	requested
	mov	r9d, ecx
	shl	ecx, SLOT_SHIFT
	lea	r13, [r15 + STATE + S_PENDING]
	add	r13, rcx
	cmp	dword ptr [r13 + R_TAG + 4], EXIT_CPUID
	jne	requested
	cmp	[r13 + R_GPR], r14d
	jne	requested
	mov	[r15 + STATE + S_DEPTH], r9
	mov	[r15 + STATE + S_LEAF_NUMBER], r14
	lea	r8, [r15 + STATE + S_PARTS - H_RAX]
	mov	rax, [r13 + R_GPR]
	mov	[r8 + H_RAX], rax
	mov	rax, [r13 + R_GPR + 8]
	mov	[r8 + H_RCX], rax
	mov	rax, [r13 + R_GPR + 16]
	mov	[r8 + H_RDX], rax
	mov	edx, GIVES_RAX | GIVES_RBX | GIVES_RCX | GIVES_RDX
	mov	r14d, EXIT_CPUID
	jmp	asked
2:	add	qword ptr [r15 + V_RIP], VMGEXIT_SIZE
	mov	dword ptr [r15 + V_SHADOW], 0
	lea	r8, [r15 + STATE + S_PARTS - H_RAX]
# In: R8 -> what a leaf has, as in a GHCB.
register:
	mov	ecx, [rip + start + DATA + M_GHCB_MSR]
	rdmsr
	inc	eax				# the response's number
	mov	edx, eax
	shr	edx, 30
	mov	edi, H_RAX
	mov	esi, H_RBX
	dec	edx
	cmove	edi, esi
	mov	esi, H_RCX
	dec	edx
	cmove	edi, esi
	mov	esi, H_RDX
	dec	edx
	cmove	edi, esi
	mov	edx, [r8 + rdi]
	wrmsr
	jmp	enter

responded:
	mov	rdx, rax
	shr	rdx, 32
	mov	ecx, [rip + start + DATA + M_GHCB_MSR]
	wrmsr
	mov	ecx, VMGEXIT_SIZE
	jmp	behind

# INS and OUTS: as many elements as the handler asks for, in the GHCB's buffer, each with a record.
elements:
	test	byte ptr [r8 + H_VALID + 14], VALID_SCRATCH
	jz	to_stub
	mov	rbx, [r8 + H_SCRATCH]
	mov	r9, rbx
	sub	r9, r8
	cmp	r9, H_BUFFER
	jb	to_stub
	cmp	r9, H_BUFFER_END
	ja	to_stub
	mov	r10, [r8 + H_INFO2]
	mov	ecx, 1
	test	r12b, REPEATS
	jz	1f
	mov	rcx, [r13 + R_GPR + 8]
1:	lea	rax, [r10 - 1]			# of none there is nothing to do
	cmp	rax, rcx
	jae	to_stub
	cmp	r10, H_BUFFER_END
	ja	to_stub
	mov	ecx, r12d
	shr	ecx, 4
	and	ecx, 7
	imul	rcx, r10
	add	rcx, r9
	cmp	rcx, H_BUFFER_END
	ja	to_stub
	lock inc qword ptr [rip + start + DATA + N_ANSWERED]
	mov	qword ptr [r15 + STATE + S_GIVES], 0
	mov	[r15 + STATE + S_COUNT], r10
	call	keep
2:	call	begin
	mov	dword ptr [r13 + R_SITE], K_PORT
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	mov	[r13 + R_MANNER], al
	mov	edx, r12d
	shr	edx, 16
	mov	[r13 + R_ADDRESS], rdx
	test	r12b, 1
	jnz	3f
	mov	byte ptr [r13 + R_MANNER + 1], 1
	mov	eax, [rbx]
	call	out_told
	call	further
	call	commit
	mov	edx, [r13 + R_ADDRESS]
	mov	eax, [rbx]
	call	out_made
	jmp	6f
3:	xor	eax, eax
	call	in_made
	call	in_told
	test	r12b, 0x10
	jz	4f
	mov	[rbx], al
	jmp	5f
4:	mov	[rbx], ax
	test	r12b, 0x20
	jnz	5f
	mov	[rbx], eax
5:	call	further
	call	commit
6:	movzx	eax, byte ptr [r13 + R_MANNER]
	add	rbx, rax
	call	end
	dec	qword ptr [r15 + STATE + S_COUNT]
	jnz	2b
	jmp	answered

# The record at R13 is of one element: the next one has the registers of the handler's next step.
# RAX, RCX and RSI are lost.
further:
	guest	mov, rsi, S_ASKED / 8
	movzx	eax, byte ptr [r13 + R_MANNER]
	test	dword ptr [rsi + R_RFLAGS], DF
	jz	1f
	neg	rax
1:	lea	rcx, [rsi + R_GPR + 8 * 6]
	test	r12b, 1
	jz	2f
	lea	rcx, [rsi + R_GPR + 8 * 7]
2:	add	[rcx], rax
	test	r12b, REPEATS
	jz	3f
	dec	qword ptr [rsi + R_GPR + 8 * 1]
	jz	3f
	mov	rax, [rsi + R_RIP]
	mov	[r13 + R_NEXT], rax
3:	ret

# In: R13 -> the record. The host has answered; the guest's handler goes on behind its VMGEXIT.
answered:
	mov	r8, [r15 + STATE + S_GHCB]
	xor	eax, eax
	mov	[r15 + STATE + S_GHCB], rax
	mov	[r8 + H_VALID], rax
	mov	[r8 + H_VALID + 8], rax
	mov	[r8 + H_INFO1], rax
	mov	[r8 + H_INFO2], rax
	mov	byte ptr [r8 + H_VALID + 14], VALID_INFO
	mov	ecx, [r15 + STATE + S_GIVES]
	cmp	byte ptr [r13 + R_MANNER + 3], 0
	je	1f
	xor	ecx, ecx
	mov	dword ptr [r8 + H_INFO1], ISSUE_EXCEPTION
	mov	dword ptr [r8 + H_INFO2], ISSUED
1:	test	ecx, GIVES_RAX
	jz	2f
	mov	rax, [r15 + V_RAX]
	mov	[r8 + H_RAX], rax
	or	byte ptr [r8 + H_VALID + 7], VALID_RAX
.macro given name, number
2:	test	ecx, GIVES_\name
	jz	2f
	guest	mov, rax, \number
	mov	[r8 + H_\name], rax
	or	byte ptr [r8 + H_VALID + 12], VALID_\name
.endm
	given	RBX, 3
	given	RCX, 1
	given	RDX, 2
2:	mov	rax, [r15 + STATE + S_SAVED]
	mov	[r15 + V_RAX], rax
	mov	rax, [r15 + STATE + S_SAVED + 8]
	mov	[r15 + STATE + 8 * 1], rax
	mov	rax, [r15 + STATE + S_SAVED + 16]
	mov	[r15 + STATE + 8 * 2], rax
	mov	rax, [r15 + STATE + S_SAVED + 24]
	mov	[r15 + STATE + 8 * 3], rax
	mov	rax, [r15 + STATE + S_SAVED + 40]
	mov	[r15 + V_RFLAGS], rax
	mov	rax, [r15 + STATE + S_SAVED + 32]
	add	rax, VMGEXIT_SIZE
	mov	[r15 + V_RIP], rax
	mov	dword ptr [r15 + V_SHADOW], 0
	lea	rax, [r15 + STATE + S_PARTS - H_RAX]
	cmp	rax, r8
	je	register
	jmp	enter

# ---- where a vCPU stands

# A vCPU is stopped here until somebody has acted. Where that is by breakpoints, QEMU executes each
# instruction of their page by itself, and looks it up each time (check_for_breakpoints).
	.balign	4096, 0xcc

# Who answers all else stops the vCPU here, has the answer in RAX, and lets it go on behind.
requested:
	pause
	jmp	requested

# Ask what becomes of the access that the record at R13 tells of. Out: CF where
# it is not to be made; what it would have read is in the record then. No register is changed. A
# read that is watched stops the vCPU, as where the ring is full.
ask:	mov	qword ptr [r15 + STATE + S_DECIDED], 0
	push	rax
1:	read_bell
ring:	cmp	qword ptr [r15 + STATE + S_DECIDED], 0
	je	1b
decided:
	pop	rax
	cmp	qword ptr [r15 + STATE + S_DECIDED], DONE
	ret

# The access was made: what it has read is in the record, and may be changed there.
made:	push	rax
	read_bell
told:	pop	rax
	ret

# What the guest goes on with is all there, and may be changed.
parting:
	mov	qword ptr [r15 + STATE + S_ASKING], 0
	read_bell
parted:	jmp	going

# Who was asked has written what the guest goes on with: an exception, or other registers.
instead:
	lea	rsp, [r15 + STATE + STACK_TOP]
	mov	qword ptr [r15 + STATE + S_ASKING], 0
	jmp	enter

# Let so much time pass as RCX tells.
late:	dec	rcx
	jnz	late
waited:	nop
	jmp	waited

# An entry for each gate. #GP alone has an error code, and is an exception unless the window is open.
	.balign	8, 0xcc
gates:
.set vector, 0
.rept 256
	.balign	8, 0xcc
	.byte	0x6a, vector		# push
	.byte	0xe9			# jmp, 32 bits
	.long	taken - . - 4
	.set vector, vector + 1
.endr
