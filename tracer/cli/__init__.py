"""The commands of ``vetrace``, a module each.

A command module has ``add_arguments(parser)``, which fills an :class:`argparse.ArgumentParser`,
and ``run(args)``, which returns the exit status and raises :exc:`tracer.errors.TracerError` for
what the reader can act on. Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MISMATCH = 3
EXIT_PIPE = 141  # 128 + SIGPIPE
EXIT_STATUSES = (
    "Exit status: 0 done; 1 failed; 2 wrong usage; 3 a comparison found a mismatch; 130, 143 or 129"
    " ended by SIGINT, SIGTERM or SIGHUP; 141 nobody reads the output any more."
)

__all__ = ("main",)
