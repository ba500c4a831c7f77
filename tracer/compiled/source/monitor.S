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

.include "monitor/vmcb.S"
.include "monitor/round.S"
.include "monitor/record.S"
.include "monitor/port.S"
.include "monitor/asking.S"
.include "monitor/stack.S"
.include "monitor/memory.S"
.include "monitor/string.S"
.include "monitor/msr.S"
.include "monitor/cpuid.S"
.include "monitor/interrupt.S"
.include "monitor/errand.S"
.include "monitor/nested.S"
.include "monitor/domain.S"
.include "monitor/encrypted.S"
.include "monitor/protocol.S"
.include "monitor/stop.S"
