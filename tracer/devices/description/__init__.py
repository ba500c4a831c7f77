"""Register descriptions of other tools, as trees of registers: CMSIS-SVD, SystemRDL, IP-XACT.

Each module knows one library, which is an optional dependency; markup needs none.
"""

__all__ = ("markup", "rdl", "svd")
