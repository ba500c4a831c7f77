"""Every error vetrace raises on purpose.

    TracerError                      what the reader can act on: one line, exit status 1
    ├── UsageError                   the command line asks for what cannot be: exit status 2
    │   ├── UnknownName              a name that nothing has, though something may come to have it
    │   └── MarkedError              text that means nothing, with the place in it
    │       └── ConditionError       a condition that means nothing, or has no answer
    ├── GuestError                   the guest, or the program that runs it
    │   ├── KernelImageError         the kernel file is not one, or has no symbols
    │   ├── QemuError                QEMU is missing, too old, refused its command line, or died
    │   ├── GuestCrashed             the guest itself gave up: panic, triple fault
    │   └── GuestHung                the guest did not end in the time that it was given
    ├── DebuggerError                GDB is missing, too old, or died
    │   ├── CommandFailed            GDB answered ^error
    │   ├── ProtocolError            an answer that cannot belong to its packet
    │   └── TargetGone               QEMU has ended, so there is nothing to debug any more
    ├── InterceptError               an intercept could not be completed
    │   ├── TablesUnending           more page tables than are read, or in circles
    │   └── NoEntries                traps cannot be at page-table entries; a GuestError, too
    ├── HostFailed                   a person's own Python that decides about accesses went wrong
    ├── Interrupted                  a signal ended the run: exit status 128 and its number
    ├── TraceError                   a trace file is not one, or is damaged
    ├── repl.console.PythonFailed    a person's own Python raised something at the prompt
    ├── repl.interpreter.ScriptStopped   a script within a command ended at one that failed
    ├── compiled.safety.NotCompiled  an instruction that is left to a stop each time
    ├── intercept.window.NoWindow    why a guest has no place for compiled sites
    ├── Diverged                     a live guest left the recording: exit status 3
    └── EmulationError               one instruction
        ├── NotEnoughBytes           more code bytes are needed to decode it
        ├── InvalidInstruction       the bytes are no instruction in this mode
        ├── UnsupportedInstruction   a real instruction that the emulator leaves to the CPU
        ├── Misread                  the CPU accesses something else than the decoder says
        └── GuestException           the instruction faults: deliver this vector to the guest

Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Self


class TracerError(Exception):
    """Tell the reader what happened, to what, and what to do next, in one line."""


class UsageError(TracerError):
    """Refuse a command line that parses but cannot be carried out.

    ``may_come`` tells that a name is not known that something may come to have.
    """

    may_come = False

    def noted(self, note: str) -> UsageError:
        """Return the same with a note behind it."""
        return type(self)(f"{self} ({note})")


class UnknownName(UsageError):
    """Refuse a name that nothing has, though something may come to have it."""

    may_come = True


class HostFailed(TracerError):
    """Tell what was wrong in a person's own Python, naming file and line."""


class Interrupted(TracerError):
    """Tell what there is of a run that a signal ended; ``number`` is the signal's."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class MarkedError(UsageError):
    """Reject a text that somebody typed, pointing at the place.

    ``text`` is all that was typed, ``column`` counts its characters from 1.
    """

    def __init__(
        self, message: str, text: str, column: int, owner: str = "", *, may_come: bool = False
    ) -> None:
        super().__init__(f"{owner}: {message}" if owner else message)
        self.text = text
        self.column = column
        self.may_come = may_come
        self._message = message

    @property
    def detail(self) -> str:
        """Return the message, then what was typed, then a caret under the place."""
        return f"{self}\n  {self.text}\n  {' ' * (self.column - 1)}^"

    def of(self, owner: str) -> Self:
        """Return the same with the name of what has the text: ``break 2``."""
        return type(self)(self._message, self.text, self.column, owner, may_come=self.may_come)

    def noted(self, note: str) -> Self:
        """Return the same with a note behind it."""
        return type(self)(f"{self} ({note})", self.text, self.column, may_come=self.may_come)


class ConditionError(MarkedError):
    """Reject a condition, or report one that has no answer: a division by zero."""


class GuestError(TracerError):
    """Report a guest that could not be started or kept running."""


class KernelImageError(GuestError):
    """Reject a kernel file, naming the file and what is wrong with it."""


class QemuError(GuestError):
    """Report QEMU missing, too old, refusing its arguments, or dying."""


class GuestCrashed(GuestError):
    """Report a guest that panicked, triple-faulted or reset."""


class GuestHung(GuestError):
    """Report a guest that did not end in the time that it was given.

    ``reason`` says so, and ``where`` one reads what it did last, which is no part of the outcome.
    """

    def __init__(self, reason: str = "", where: str = "") -> None:
        super().__init__(f"{reason}: {where}" if where else reason)
        self.reason = reason


class DebuggerError(TracerError):
    """Report GDB missing, too old, or dying."""


class CommandFailed(DebuggerError):
    """Carry GDB's own words for a command it refused."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(f"gdb refused `{command}`: {message}")
        self.command = command
        self.message = message


class ProtocolError(DebuggerError):
    """Report an answer of QEMU's stub that cannot be one to the packet that was sent."""

    def __init__(self, packet: str, answer: str) -> None:
        super().__init__(
            f"QEMU's stub answered {answer[:40]!r} to GDB's packet {packet[:40]!r}, which is no "
            "answer to it: the two are out of step, and nothing more can be believed; boot again"
        )
        self.packet = packet
        self.answer = answer


class TargetGone(DebuggerError):
    """Tell that QEMU has ended, well or badly: :class:`GuestError` and its kin say how."""

    def __init__(self) -> None:
        super().__init__("the guest is gone")


class InterceptError(TracerError):
    """Report an intercept that could not be completed; the guest is left stopped."""


class NoEntries(InterceptError, GuestError):
    """Say why traps cannot be at a guest's page-table entries, or not all: nested ones might."""


class TablesUnending(InterceptError):
    """Report page tables of the guest that are too many to be read."""


class TraceError(TracerError):
    """Report a trace that cannot be read or written, naming file and line."""


class Diverged(TracerError):
    """Tell that a live guest left the recording that answers it.

    The message comes in two parts, so that whoever knows the guest's code can say where it is.
    """

    def __init__(self, what: str, then: str, site: str | None = None) -> None:
        super().__init__(f"{what}{f' at {site}' if site else ''}; {then}")
        self._parts = what, then

    def at(self, site: str) -> Diverged:
        """Return the same with the guest's call site."""
        return Diverged(*self._parts, site)


class EmulationError(TracerError):
    """Carry the code bytes of the instruction concerned."""

    def __init__(self, message: str, code: bytes) -> None:
        super().__init__(message)
        self.code = code


class NotEnoughBytes(EmulationError):
    """Ask for more code bytes: the ones given are a proper prefix of an instruction."""

    def __init__(self, code: bytes) -> None:
        shown = code.hex(" ") or "no bytes at all"
        super().__init__(f"truncated instruction: {shown}", code)


class InvalidInstruction(EmulationError):
    """Reject bytes that no CPU would execute in this mode (#UD)."""

    def __init__(self, code: bytes, why: str = "not an instruction") -> None:
        super().__init__(f"{why}: {code.hex(' ')}", code)


class UnsupportedInstruction(EmulationError):
    """Leave a valid instruction to the CPU, which carries it out by a native step."""

    def __init__(self, code: bytes, text: str) -> None:
        super().__init__(f"not emulated: {text} ({code.hex(' ')})", code)
        self.text = text


class Misread(EmulationError):
    """Leave an instruction to the CPU, which takes its bytes for something else."""

    def __init__(self, code: bytes, message: str) -> None:
        super().__init__(message, code)


class GuestException(EmulationError):
    """Deliver an exception to the guest as the CPU would.

    ``vector`` is the exception number (Intel SDM vol. 3A, table 6-1), ``error_code`` is absent
    for vectors that push none, ``linear`` is the faulting linear address (CR2) for #PF alone.
    ``injected`` says that a person wants it, and the instruction would not raise it.
    """

    def __init__(
        self,
        code: bytes,
        vector: int,
        error_code: int | None = None,
        linear: int | None = None,
        *,
        injected: bool = False,
    ) -> None:
        super().__init__(f"raises exception {vector}", code)
        self.injected = injected
        self.vector = vector
        self.error_code = error_code
        self.linear = linear


_MANY = 5000


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean nvme?`` for the known word nearest to a mistyped one, or nothing.

    Of many words, such as a kernel's functions, those alone are tried that begin alike and are
    about as long: all of them would take seconds.
    """
    from difflib import get_close_matches  # needed by errors alone

    folded = word.casefold()
    by_folded = {name.casefold(): name for name in known}
    tried: Iterable[str] = by_folded
    if len(by_folded) > _MANY:
        tried = [n for n in by_folded if n[:1] == folded[:1] and abs(len(n) - len(folded)) < 4]
    near = get_close_matches(folded, tried, 1)
    return f"; did you mean {by_folded[near[0]]}?" if near else ""


def advice(word: str, known: Collection[str]) -> str:
    """Return the nearest word, or else which there are, where these are few."""
    near = suggestion(word, known)
    if near or len(known) > _FEW:
        return near
    return f"; there are: {', '.join(sorted(known)) or 'none'}"


_FEW = 40
