"""Records of what a doorbell told a device: the entries of a queue in the guest's RAM."""

from __future__ import annotations

import msgspec

from tracer.text.printable import printable
from tracer.trace.member import Count, Vcpu
from tracer.trace.wire import Code, Hex


class QueueEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hold one entry of a queue: its ``kind``, its ``index``, its bytes at a physical address.

    ``fields`` are numbers by name, ``text`` says them in words. A descriptor of a virtqueue has the
    index of its ``chain``'s first, in a packed one the identifier of its buffer.
    """

    kind: str
    index: Count
    physical: Hex
    data: Code
    fields: dict[str, Hex] = {}
    text: str | None = None
    chain: Count | None = None


class QueueRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="queue", tag_field="type", omit_defaults=True
):
    """Tell what was in a queue when its doorbell was rung, by the access of number ``seq``.

    ``queue`` is the kind that the register map names, ``number`` which one of it. With ``late`` the
    guest had gone on before it was read: entries may be others by then. ``note`` says what could
    not be read, and why.
    """

    time_ns: Count
    seq: Count
    vcpu: Vcpu
    region: str
    queue: str
    number: Count
    entries: list[QueueEntry] = []
    late: bool = False
    note: str | None = None


def queue_lines(record: QueueRecord) -> list[str]:
    """Return a line for each entry, and one for what is to be said of all."""
    head = f"{'':10}  ⇒ "
    name = f"{printable(record.queue)}[{record.number}]"
    lines = []
    for entry in record.entries:
        chain = "" if entry.chain is None else f" of chain {entry.chain}"
        text = printable(entry.text or entry.data.hex())
        where = f"{printable(entry.kind)} {entry.index}{chain} at {entry.physical:#x}"
        lines.append(f"{head}{name} {where}: {text}")
    told = []
    if record.late:
        told.append("read after the guest had gone on")
    if record.note:
        told.append(printable(record.note))
    if not record.entries and not record.note:
        told.append("no entry")
    if told:
        lines.append(f"{head}{name}: {'; '.join(told)}")
    return lines


def queue_object(record: QueueRecord) -> dict[str, object]:
    """Return what a queue had ready for JSON; addresses are physical."""
    return {
        "type": "queue",
        "seq": record.seq,
        "time_ns": record.time_ns,
        "vcpu": record.vcpu,
        "region": record.region,
        "queue": record.queue,
        "number": record.number,
        "entries": [
            {
                "kind": entry.kind,
                "index": entry.index,
                "address": hex(entry.physical),
                "bytes": entry.data.hex(),
                "fields": {name: hex(value) for name, value in entry.fields.items()},
                "text": entry.text,
                "chain": entry.chain,
            }
            for entry in record.entries
        ],
        "late": record.late,
        "note": record.note,
    }
