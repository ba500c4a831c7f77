"""vetrace: trap, decode, emulate and record every MMIO access of an x86-64 guest."""

__version__ = "0.1.0"
