"""Text from people and for them: encoding, numbers that they type, what is printable, colours."""

__all__ = (
    "colour",
    "encoding",
    "number",
    "printable",
    "span",
)
