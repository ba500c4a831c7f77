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
