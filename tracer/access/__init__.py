"""One access on its way: region, address space, transfers, what becomes of it."""

__all__ = (
    "decision",
    "execution",
    "footprint",
    "inference",
    "mapping",
    "recorded",
    "reenactment",
    "region",
    "space",
    "stack",
    "state",
    "stop",
    "symbols",
    "transfer",
    "vcpu",
    "want",
)
