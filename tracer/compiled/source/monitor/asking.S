# Whether somebody is to be asked about an input.

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
