"""A guest without a known system: its image is an ELF file, and nothing else is known of it."""

__all__ = ("guidance", "image", "open", "reset", "system")
