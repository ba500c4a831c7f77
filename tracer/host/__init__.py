"""The host: child processes, folders, signals, streams, packages."""

__all__ = (
    "backports",
    "cache",
    "guardian",
    "keeper",
    "named_file",
    "own_code",
    "package",
    "process",
    "scratch",
    "signals",
    "streams",
    "textfile",
    "typed",
    "undo_log",
    "whole_file",
)
