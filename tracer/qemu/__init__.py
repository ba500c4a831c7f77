"""QEMU: its process, its monitor, its memory map, its RAM, and how it ended."""

__all__ = (
    "command_line",
    "cpu",
    "ending",
    "firmware",
    "hardware",
    "machine",
    "monitor",
    "refusal",
)
