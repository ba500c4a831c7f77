"""A Linux kernel: image, symbols, types, stacks, modules, and where it makes mappings."""

__all__ = (
    "btf",
    "callers",
    "entry",
    "hooks",
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
    "ve_handler",
    "wrapper",
    "wrappers",
)
