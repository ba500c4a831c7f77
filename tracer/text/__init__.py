"""Text from people and for them: numbers that they type, what is printable, colours."""

__all__ = (
    "colour",
    "number",
    "printable",
    "span",
)
