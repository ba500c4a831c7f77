"""The instruction set, and nothing of a guest: state, decode, emulate, page tables, gates."""

__all__ = (
    "bus",
    "code_text",
    "decode",
    "emulate",
    "forms",
    "free_entry",
    "idt",
    "instruction",
    "latest_store",
    "paging",
    "state",
    "table_load",
    "tss",
)
