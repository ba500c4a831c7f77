"""Words for a file that the system does not let one read or write: what, why, what to do next."""

from __future__ import annotations

import errno
from collections.abc import Mapping

_READ = {
    errno.ENOENT: "look at its name",
    errno.ENOTDIR: "look at its name: what should be a folder in it is a file",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "let yourself read it, or name another",
    errno.EPERM: "let yourself read it, or name another",
    errno.ENAMETOOLONG: "look at its name",
    errno.ELOOP: "its symbolic links lead in a circle: name the file itself",
    errno.EIO: "name a file that can be read",
    errno.EMFILE: "close some, or raise `ulimit -n`",
}
_WRITE = {
    errno.ENOENT: "make its folder first, or name another file",
    errno.ENOTDIR: "what should be its folder is a file: name another",
    errno.EEXIST: "remove it first, or name another file",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "name a file in a folder that you may write to",
    errno.EPERM: "name a file in a folder that you may write to",
    errno.EROFS: "name a file on another file system",
    errno.ENOSPC: "make room there, or name another place",
    errno.EDQUOT: "make room there, or name another place",
    errno.EFBIG: "raise `ulimit -f`, or ask for less",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle: name the file itself",
    errno.EMFILE: "close some, or raise `ulimit -n`",
    errno.EBADF: "open it for writing",
}
_OTHERWISE = "name another file"


def unread(what: str, error: OSError | ValueError) -> str:
    """Return in a line that ``what`` cannot be read, why, and what to do next.

    A ValueError is the one of a name with a NUL in it.
    """
    return f"cannot read {what}: {_why(error, _READ)}"


def unwritten(what: str, error: OSError | ValueError, advice: str | None = None) -> str:
    """Return in a line that ``what`` cannot be written, as :func:`unread`.

    ``advice`` is what to do next where the caller knows better than the system's error does.
    """
    return f"cannot write {what}: {_why(error, _WRITE, advice)}"


def _why(error: OSError | ValueError, known: Mapping[int, str], advice: str | None = None) -> str:
    if not isinstance(error, OSError):
        why = "its name has a NUL" if "null" in str(error) else str(error)
        return f"{why}; {advice or _OTHERWISE}"
    next_step = advice or known.get(error.errno or 0, _OTHERWISE)
    return f"{error.strerror or error}; {next_step}"
