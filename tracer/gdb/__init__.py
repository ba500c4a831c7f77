"""GDB: the only way registers, breakpoints and devices of the guest are reached."""

__all__ = ("client", "mi", "target")
