"""The guest: its QEMU process, its RAM, its kernel image and what is built for it."""

__all__ = ("equipment", "initramfs", "program", "recipe", "report", "software")
