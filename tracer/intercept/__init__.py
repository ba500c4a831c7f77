"""Interception: a guest's MMIO accesses become stops, and are carried out.

By what they are about, the modules are

* the way into a stop: ``stub`` is the guest code in front of the page-fault handler, with its
  ``door`` and what it leaves, the ``spill``; ``gate`` puts it there, into ``padding``, ``loads``
  follows the IDT, ``interrupt_stack`` has a stack for it, ``visit`` sends a vCPU there; in a
  monitor it is ``nested``, and ``post`` is what both have in common;
* the mappings that lead there: ``coverage`` and ``poison``;
* one stop: ``interceptor`` completes the access of a ``fault``; ``answer`` says who answers it,
  ``carrier`` makes it, ``native_step`` and ``port`` have the vCPU do it, a ``recording`` does it
  by ``standin``; ``delivery`` raises exceptions; ``oversight`` asks first, ``ledger`` records;
* accesses without a stop: ``sites`` that are compiled lie in a ``window``, with their ``block``,
  its ``rows`` and ``stops``, and the ``pace`` of their counter; ``guest_module`` is the TDX module
  as guest code, ``monitor`` what a guest runs inside whose inputs are recorded;
* confidential guests: ``firmware`` is the port for ``trust_domain`` and ``encrypted_guest``; a
  fault is ``waiting`` for the call that ``inquiry`` matches with it, as was decided in
  ``granting``; ``protocol_bell`` is for what is asked by an MSR alone; ``bench`` tries instructions
  on the guest's handler, by ``ve_trial``, ``vc_trial``;
* what code waits for that reads again and again: ``lookout``; what a ``doorbell`` is about, and the
  chains of a ``virtqueue``;
* what all of them stand on: ``view``, ``names``, ``clock``, ``journal``, ``ground``, the ports
  ``trap`` and ``system``, ``call`` for breakpoints on functions, and ``blame``.
"""

__all__ = (
    "answer",
    "bench",
    "blame",
    "call",
    "carrier",
    "clock",
    "coverage",
    "doorbell",
    "encrypted_guest",
    "fault",
    "firmware",
    "gate",
    "ground",
    "guest_module",
    "input_bell",
    "interceptor",
    "interrupt_stack",
    "journal",
    "loads",
    "lookout",
    "monitor",
    "names",
    "nested",
    "padding",
    "poison",
    "post",
    "protocol_bell",
    "recording",
    "rows",
    "sites",
    "standin",
    "stub",
    "system",
    "trap",
    "trust_domain",
    "vc_trial",
    "ve_trial",
    "view",
    "visit",
    "window",
)
