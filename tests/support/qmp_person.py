"""A person at a QEMU's monitor for programs (QMP), beside vetrace."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class QmpPerson:
    """Hold one connection, and carry out commands there."""

    def __init__(self, monitor: Path) -> None:
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.connect(str(monitor))
        self._lines = self._channel.makefile("rw")
        self._lines.readline()  # the greeting
        self.execute("qmp_capabilities")

    def __enter__(self) -> QmpPerson:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._channel.close()

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Carry out a command, and return its result."""
        answer = self._answer(command, arguments)
        assert "error" not in answer, answer
        return answer["return"]

    def takes(self, command: str, arguments: Mapping[str, Any] | None = None) -> bool:
        """Carry out a command if QEMU takes it now; tell whether it did."""
        return "return" in self._answer(command, arguments)

    def _answer(self, command: str, arguments: Mapping[str, Any] | None) -> Mapping[str, Any]:
        # Events come between.
        self._lines.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
        self._lines.flush()
        answer: Mapping[str, Any] = {}
        while not answer.keys() & {"return", "error"}:
            answer = json.loads(self._lines.readline())
        return answer
