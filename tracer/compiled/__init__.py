"""How an instruction that reaches a device is made to run by itself in the guest, with a record.

An instruction becomes a thunk, code that makes the access and leaves a record in a ring; the rest
of the page-fault handler is the same for all. Here are the bytes and what they mean. Writing them
into a guest, and reading the ring, is somebody else's: nothing here knows a guest.
"""

__all__ = (
    "asking",
    "common",
    "diary",
    "exits",
    "flagging",
    "inputs",
    "layout",
    "message",
    "module",
    "monitor",
    "pending",
    "reading",
    "ring",
    "safety",
    "sites",
    "stack_copy",
    "thunk",
)
