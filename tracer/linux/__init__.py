"""A Linux kernel: image, symbols, types, stacks, modules, and where it makes mappings."""

__all__ = (
    "btf",
    "callers",
    "entry",
    "handler_end",
    "hooks",
    "installed",
    "kernel",
    "mapping",
    "mm",
    "module_folder",
    "names",
    "orc",
    "processes",
    "readers",
    "stacks",
    "system",
    "toll",
    "user",
    "wrapper",
    "wrappers",
)
