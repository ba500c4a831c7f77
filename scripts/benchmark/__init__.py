"""The benchmarks of ``scripts/bench``, a module each.

A benchmark is a function without arguments that returns a ``result.Result``; ``__main__`` lists
them by name.
"""
