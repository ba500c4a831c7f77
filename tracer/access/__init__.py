"""One access on its way: region, address space, transfers, what becomes of it."""

__all__ = (
    "decision",
    "execution",
    "footprint",
    "inference",
    "recorded",
    "region",
    "space",
    "state",
    "transfer",
)
