# CPUID, and the time-stamp counter.

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

# The time-stamp counter.

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
