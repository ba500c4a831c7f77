"""Golden traces for any test runner: the documented name of :mod:`tracer.check.golden`."""

from __future__ import annotations

from tracer.check.golden import assert_matches_trace

__all__ = ("assert_matches_trace",)
