"""The ``vetrace`` program, also as ``python -m tracer``."""

from __future__ import annotations

import sys

from tracer.host import signals


def main() -> int:
    """Run the command line; return the exit status, at a signal the signal's."""
    try:
        signals.take()
        # Imported late: a signal may come while the rest of vetrace is loaded.
        from tracer.cli.main import main as run

        return run()
    except signals.Ended as end:
        print(f"vetrace: {signals.words_of(end.number)}", file=sys.stderr)
        return signals.status_of(end.number)
    finally:
        signals.leave_at_once()


if __name__ == "__main__":
    sys.exit(main())
