"""The host: child processes, folders, signals, streams, packages."""

__all__ = ("cache", "package", "process", "scratch", "signals", "streams", "textfile")
