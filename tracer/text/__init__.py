"""Text from people and for them: encoding, numbers that they type, what is printable, colours."""

__all__ = (
    "amount",
    "colour",
    "encoding",
    "file_error",
    "number",
    "printable",
    "span",
)
