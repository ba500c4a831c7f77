"""Register maps of devices: what a register is called, and what its bits mean."""

__all__ = (
    "description", "directory", "entry", "file", "library", "map", "queue", "tree", "writing",
)  # fmt: skip
