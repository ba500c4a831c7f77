"""Register maps of devices: what a register is called, and what its bits mean."""

__all__ = ("directory", "entry", "library", "map", "tree")
