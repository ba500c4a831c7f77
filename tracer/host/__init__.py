"""The host: child processes, folders, signals, streams, packages."""

__all__ = (
    "backports",
    "cache",
    "event_loop",
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
