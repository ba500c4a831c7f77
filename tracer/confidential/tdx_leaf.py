"""The leaves of TDCALL: their names, the registers that they take and give, what is answered.

Ref: intel/tdx-module (the module's own source, commit 1666adc494db), include/tdx_api_defs.h
`tdcall_leaf_opcode_e`; src/td_dispatcher/tdx_td_dispatcher.c `td_call` (which registers are
handed to which leaf, which have versions) and the file of each leaf, named below, in
src/td_dispatcher/vm_exits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """Describe a leaf: ``takes`` and ``gives`` are registers beside RAX, in order.

    ``versions`` is how many versions the module's source knows. ``answered`` says in words what
    vetrace answers; ``served`` tells that it can be success. ``source`` is a file of the module.
    """

    number: int
    name: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    source: str
    served: bool
    answered: str
    versions: int = 1


_ROWS = (
    (0, "TDG.VP.VMCALL", "rcx rdx rbx rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15", "r10 r11",
     "tdg_vp_vmcall.c", True, "asks the host, see the hypercalls"),
    (1, "TDG.VP.INFO", "", "rcx rdx r8 r9 r10 r11", "tdg_vp_info.c", True,
     "the width of guest-physical addresses, the attribute SEPT_VE_DISABLE, the vCPUs"),
    (2, "TDG.MR.RTMR.EXTEND", "rcx rdx", "", "tdg_mr_rtmr_extend.c", False,
     "wrong operands as the module; else refused, as nothing is measured"),
    (3, "TDG.VP.VEINFO.GET", "", "rcx rdx r8 r9 r10", "tdg_vp_veinfo_get.c", True,
     "the #VE that waits, once; without one TDX_NO_VALID_VE_INFO"),
    (4, "TDG.MR.REPORT", "rcx rdx r8", "", "tdg_mr_report.c", False,
     "wrong operands as the module; else refused, as nothing is attested"),
    (5, "TDG.VP.CPUIDVE.SET", "rcx", "", "tdg_vp_cpuidve_set.c", True,
     "noted; CPUID raises no more #VE than before"),
    (6, "TDG.MEM.PAGE.ACCEPT", "rcx", "", "tdg_mem_page_accept.c", True,
     "success for what MapGPA made private again, else TDX_PAGE_ALREADY_ACCEPTED"),
    (7, "TDG.VM.RD", "rcx rdx", "rdx r8", "tdg_vm_rd_wr.c", True, "the fields listed below"),
    (8, "TDG.VM.WR", "rcx rdx r8 r9", "r8", "tdg_vm_rd_wr.c", True, "the fields listed below"),
    (9, "TDG.VP.RD", "rcx rdx", "rdx r8", "tdg_vp_rd_wr.c", False,
     "TDX_METADATA_FIELD_ID_INCORRECT: no field of a vCPU is kept"),
    (10, "TDG.VP.WR", "rcx rdx r8 r9", "r8", "tdg_vp_rd_wr.c", False,
     "TDX_METADATA_FIELD_ID_INCORRECT, likewise"),
    (11, "TDG.SYS.RD", "rdx", "rdx r8", "tdg_sys_rd.c", False,
     "TDX_METADATA_FIELD_ID_INCORRECT: no field of the module itself is kept"),
    (12, "TDG.SYS.RDALL", "rdx r8", "r8", "tdg_sys_rdall.c", False,
     "wrong operands as the module; else refused, likewise"),
    (18, "TDG.SERVTD.RD", "rcx rdx", "rcx rdx r8 r10 r11 r12 r13", "tdg_servtd_rd_wr.c", False,
     "refused: no TD is bound to this one"),
    (20, "TDG.SERVTD.WR", "rcx rdx r8 r9", "rcx r8 r10 r11 r12 r13", "tdg_servtd_rd_wr.c", False,
     "refused, likewise"),
    (22, "TDG.MR.VERIFYREPORT", "rcx", "", "tdg_mr_verifyreport.c", False,
     "refused, as on a CPU that cannot"),
    (23, "TDG.MEM.PAGE.ATTR.RD", "rcx", "rcx rdx", "tdg_mem_page_attr_rd.c", False,
     "wrong operands as the module; else refused, as there is no secure EPT"),
    (24, "TDG.MEM.PAGE.ATTR.WR", "rcx rdx r8", "rcx rdx", "tdg_mem_page_attr_wr.c", False,
     "likewise"),
    (25, "TDG.VP.ENTER", "rcx rdx", "", "tdg_vp_enter.c", False,
     "refused, as the module does in a TD without inner guests"),
    (26, "TDG.VP.INVEPT", "rcx", "", "tdg_vp_invept.c", True, "success for no inner guest at all"),
    (27, "TDG.VP.INVVPID", "rcx rdx", "", "tdg_vp_invvpid.c", False,
     "refused, as the module does in a TD without inner guests"),
    *(
        (number, name, "rcx rdx r8 r9", "", f"tdxio/{name.lower().replace('.', '_')}.c", False,
         "refused: no device is assigned (TDX Connect)")
        for number, name in enumerate(
            ("TDG.SPDM.TPA.SET", "TDG.SPDM.TPA.GET", "TDG.DEVIF.VALIDATE", "TDG.DEVIF.RD",
             "TDG.DEVIF.REQUEST", "TDG.DEVIF.RESPONSE", "TDG.DMAR.ACCEPT", "TDG.MMIO.ACCEPT",
             "TDG.IQ.INV.REQUEST"), 64)
    ),
)  # fmt: skip

_VERSIONS = {3: 2, 7: 2}

LEAVES = {
    number: Leaf(
        number, name, tuple(takes.split()), tuple(gives.split()), source, served, answered,
        _VERSIONS.get(number, 1),
    )
    for number, name, takes, gives, source, served, answered in _ROWS
}  # fmt: skip
"""Every leaf that the module's source has a number for."""
