# What guest code copies quadwords with. REP MOVSQ is a jump to itself in QEMU, an element each: that
# takes several times as long.

# In: RSI -> as many quadwords as COUNT says, RDI -> where they go. RAX is lost.
.macro copy count
.set at, 0
.rept \count
	mov	rax, [rsi + at]
	mov	[rdi + at], rax
.set at, at + 8
.endr
.endm

# In: ECX = how many. RSI and RDI go on behind them; RAX and RCX are lost.
.macro copy_all
71:	sub	ecx, 16
	jb	72f
	copy	16
	sub	rsi, -128
	sub	rdi, -128
	jmp	71b
72:
.irp count, 8, 4, 2, 1
	test	cl, \count
	jz	73f
	copy	\count
	add	rsi, 8 * \count
	add	rdi, 8 * \count
73:
.endr
.endm
