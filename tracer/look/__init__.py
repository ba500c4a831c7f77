"""A stopped guest as lines of text and as JSON-ready objects: what a person looks at.

Every view is a function from values to lines, ``columns`` wide at most where words can be broken,
and one to an object. Addresses and registers are hex strings in objects, because a JSON number
loses bits above 2^53.
"""

__all__ = (
    "call",
    "code",
    "cpu_register",
    "dump",
    "explanation",
    "page",
    "plan",
    "plan_view",
    "region",
    "register_sheet",
    "registers",
    "sheet",
    "stack",
)
