# Where a vCPU is stopped until somebody has acted.

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
