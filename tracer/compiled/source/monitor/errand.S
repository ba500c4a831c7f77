# Errands: the kernel's own threads tell what they do for whom.

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
