"""The instruction set, and nothing of a guest: state, decode, emulate, page tables, gates."""

__all__ = (
    "bus",
    "code_text",
    "decode",
    "disassembler",
    "emulate",
    "forms",
    "free_entry",
    "hidden",
    "idt",
    "instruction",
    "latest_store",
    "legacy_paging",
    "nested",
    "paging",
    "poll",
    "prefix",
    "segment",
    "state",
    "table_load",
    "tss",
)
