"""The rules and the host that a command line asks for: read before there is a guest, and put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.confidential.kind import Kind
from tracer.errors import MarkedError, UsageError
from tracer.host.own_code import made_of, read_text, run_file
from tracer.query.breakpoint import PENDING, parse_pattern
from tracer.query.place import Known
from tracer.query.rule import AHEAD, parse_rule
from tracer.session.host import Host, check_told
from tracer.session.mutation import mutating_host
from tracer.session.own_host import OwnHost, own_host


@dataclass(frozen=True, slots=True)
class RuleText:
    """Hold a rule as typed; ``owner`` says where: ``--rule 2``, ``hostile.rules:3``."""

    owner: str
    text: str


@dataclass(frozen=True, slots=True)
class Hosting:
    """Say what decides about a guest's accesses: rules in their order, then a person's Python."""

    rules: tuple[RuleText, ...] = ()
    own: OwnHost | None = None

    @property
    def asked(self) -> bool:
        """Tell whether anything decides."""
        return bool(self.rules or self.own)


def hosting(
    rules: Sequence[str] = (),
    source: Path | object | None = None,
    mutation: tuple[str, int] | None = None,
    *,
    kind: Kind = Kind.PLAIN,
) -> Hosting:
    """Return what is asked for, as far as it makes sense without a guest. Raises UsageError.

    ``source`` is a file of rules, a Python file by its name's ``.py``, or an object that has
    ``mmio``. A ``mutation`` says which accesses get values of which seed.
    """
    texts = [RuleText(f"--rule {number}", text) for number, text in enumerate(rules, 1)]
    own = None
    match source:
        case None:
            pass
        case Path() if source.suffix == ".py":
            own = _from_file(source)
        case Path():
            texts += _lines(source)
        case _:
            own = own_host(source, type(source).__name__, type(source).__name__)
    if mutation is not None:
        if own is not None:
            raise UsageError(f"{own.path} decides already: --mutate goes with rules alone")
        own = mutating_host(mutation[1], mutation[0], confidential=kind is not Kind.PLAIN)
    for item in texts:
        try:
            check_told(parse_rule(item.text, AHEAD).ruling, kind)
        except UsageError as error:
            raise _of(error, item.owner) from None
    for text in own.on if own is not None else ():
        try:
            parse_pattern(text, AHEAD)
        except UsageError as error:
            assert own is not None  # it has `on`
            raise _of(error, own.on_text) from None
    return Hosting(tuple(texts), own)


def install(asked: Hosting, host: Host, known: Known) -> None:
    """Have a host go by what is asked for, with the names that its guest has. Raises UsageError."""
    for item in asked.rules:
        try:
            host.add(item.text, known)
        except UsageError as error:
            raise _of(error, item.owner) from None
    if asked.own is not None:
        try:
            host.take(asked.own, known)
        except UsageError as error:
            raise _of(error, asked.own.on_text) from None


def _of(error: UsageError, owner: str) -> UsageError:
    told = error.noted(f"`{PENDING}` waits for one that is to come") if error.may_come else error
    if isinstance(told, MarkedError):
        return told.of(owner)
    return UsageError(f"{owner}: {told}")


def _lines(path: Path) -> Iterator[RuleText]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text = _without_comment(line).strip()
        if text:
            yield RuleText(f"{path}:{number}", text)


# A name may have the sign for a comment in it, as `nvme#2` has: a blank stands before it.
def _without_comment(line: str) -> str:
    quote = ""
    for at, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line


def _from_file(path: Path) -> OwnHost:
    space = run_file(path)
    made = space.get("Host")
    if made is None:
        return own_host(_Module(space), path.name, str(path))
    if not isinstance(made, type):
        raise UsageError(f"{path}: Host is no class")
    return own_host(made_of(made, str(path)), path.name, str(path))


class _Module:
    # The names of a file as attributes.

    def __init__(self, space: dict[str, object]) -> None:
        self.__dict__.update(space)
