"""QEMU: its process, its monitor, its memory map, its RAM, and how it ended."""

__all__ = (
    "command_line",
    "console",
    "console_door",
    "cpu",
    "dialogue",
    "ending",
    "firmware",
    "foreign",
    "guest",
    "hardware",
    "machine",
    "monitor",
    "monitor_door",
    "oops",
    "option",
    "process_arguments",
    "refusal",
    "standstill",
)
