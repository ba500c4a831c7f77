"""Is it right: a replay, a diff, golden traces, the comparison with the log of QEMU."""

__all__ = ("comparison", "diff", "divergence", "golden", "lines", "replay", "survival", "witness")
