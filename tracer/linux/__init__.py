"""A Linux kernel: image, symbols, types, stacks, modules, and where it makes mappings."""

__all__ = (
    "btf",
    "callers",
    "entry",
    "filter",
    "hooks",
    "kernel",
    "mapping",
    "mm",
    "module_folder",
    "names",
    "orc",
    "page_filter",
    "processes",
    "readers",
    "stacks",
    "system",
    "toll",
    "user",
)
