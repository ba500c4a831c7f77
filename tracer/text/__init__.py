"""Text for people: what is printable, and colours."""

__all__ = ("colour", "printable")
