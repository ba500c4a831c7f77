# The guest's memory, and the prefixes of its code.

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
