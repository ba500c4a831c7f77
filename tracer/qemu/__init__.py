"""QEMU: its process, its monitor, its memory map, its RAM, and how it ended."""

__all__ = ("ending", "machine", "monitor")
