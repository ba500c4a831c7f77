"""The instruction set, and nothing of a guest: state, decode, emulate, page tables, gates."""

__all__ = (
    "bus",
    "code_text",
    "decode",
    "emulate",
    "forms",
    "idt",
    "instruction",
    "latest_store",
    "paging",
    "state",
    "table_load",
    "tss",
)
