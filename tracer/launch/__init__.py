"""Where all comes together: a plan, the guest's software, GDB and QEMU, into a session."""

__all__ = (
    "attach",
    "borrow",
    "plan",
    "ring",
    "start",
    "ways",
)
