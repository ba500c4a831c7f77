"""The way into a stop.

``stub`` is the guest code in front of the page-fault handler, with its ``door`` and what it leaves,
the ``spill``; ``gate`` puts it there, into ``padding``, ``loads`` follows the IDT,
``interrupt_stack`` has a stack for it, ``visit`` sends a vCPU there. In a monitor it is ``nested``;
``post`` is what both have in common, and ``sight`` what a monitor sees of memory.
"""
