"""Register descriptions of other tools, as trees of registers: CMSIS-SVD, SystemRDL, IP-XACT.

Each module knows one library, which is an optional dependency.
"""

__all__ = ("rdl", "svd")
