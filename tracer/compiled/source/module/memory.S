# The guest's tables, and the window that its memory is seen in.

# In: RDX = a linear address. Out: CF, or RAX = its leaf, RSI -> it in the window, RCX = the size
# of the page less 1. RDX, RBX and RDI stay.
walk:	mov	rax, cr3
	data	mov, rcx, M_TOP
1:	data	and, rax, M_ADDRESS
	data	cmp, rax, C_REACH
	jae	4f
	mov	rsi, rdx
	shr	rsi, cl
	and	esi, 511
	lea	rsi, [rax + rsi * 8]
	data	add, rsi, C_WINDOW
	mov	rax, [rsi]
	test	al, E_P
	jz	4f
	cmp	ecx, 12
	je	3f
	cmp	ecx, 30
	ja	2f
	test	al, LARGE
	jnz	3f
2:	sub	ecx, 9
	jmp	1b
3:	push	rdx
	xor	edx, edx
	bts	rdx, rcx
	lea	rcx, [rdx - 1]
	pop	rdx
	clc
	ret
4:	stc
	ret

ram_ranges

# In: RAX = a physical address. Out: CF, or RAX = its place in the window.
seen:	data	cmp, rax, C_REACH
	jae	1f
	data	add, rax, C_WINDOW
	clc
	ret
1:	data	sub, rax, C_FAR
	data	cmp, rax, C_FAR_SIZE
	jae	2f
	data	add, rax, C_FAR_WINDOW
	clc
	ret
2:	stc
	ret

# In: RAX = a place in the window. Out: CF where a stop is wanted there. RCX and RDX are lost.
stopped:
.irp number, 0, 1, 2, 3
	mov	rcx, rax
	data	sub, rcx, C_WIDE\number
	data	cmp, rcx, C_EXTENT\number
	jb	1f
.endr
	movzx	ecx, ax
	data	add, rcx, C_STOPS
	movzx	edx, byte ptr [rcx]
	neg	edx			# CF where it is not 0
1:	ret
