"""The host: child processes, folders, signals, streams, packages."""

__all__ = ("cache", "keeper", "package", "process", "scratch", "signals", "streams", "textfile")
