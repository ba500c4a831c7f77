"""Device accesses as a Perfetto trace: a track per vCPU, and below it one per region.

What a person did is an instant on a track of its own, `user`; markers, and the events that a log
lost, are instants on the track `marks`.

Ref: https://perfetto.dev/docs/reference/synthetic-track-event (TrackDescriptor, TrackEvent). An
access is an instant, named by direction, width and offset, with register, value, call site and
instruction as arguments; numbers are hex strings, since a 64-bit value does not survive every JSON
reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from tracer.trace.call import CallRecord, SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.event import Event, Note
from tracer.trace.loss import Losses
from tracer.trace.place import spot
from tracer.trace.queue import QueueRecord
from tracer.trace.record import LostRecord, Mark, UserRecord
from tracer.trace.waiting import WaitRecord
from tracer.trace.waiting_words import awaited_words, gives_up_words

_SEQUENCE = 1
_USER = "user"
_MARKS = "marks"
_CALLS = "calls"
_CLEARED, _NEEDED = (
    TracePacket.SEQ_INCREMENTAL_STATE_CLEARED,
    TracePacket.SEQ_NEEDS_INCREMENTAL_STATE,
)


def write(items: Iterable[Event | Note], sink: IO[bytes]) -> int:
    """Write a trace with one instant an item, as they come; return how many accesses there were.

    Times are guest time in nanoseconds.
    """
    output = _Output(sink)
    count = 0
    for item in items:
        match item:
            case Event():
                output.access(item)
                count += 1
            case UserRecord():
                output.user(item)
            case Mark():
                output.mark(item)
            case LostRecord():
                output.lost(item)
            case TdcallRecord() | VmgexitRecord():
                output.call(item)
            case SharedRecord():
                output.shared(item)
            case QueueRecord():
                output.queue(item)
            case WaitRecord():
                output.wait(item)
    return count


class _Output:
    def __init__(self, sink: IO[bytes]) -> None:
        self._builder = StreamingTraceProtoBuilder(sink)
        self._tracks: dict[tuple[int | None, str], int] = {}
        self._flags = _CLEARED | _NEEDED

    def access(self, event: Event) -> None:
        record, access = event.record, event.access
        track = self._track(record.vcpu, access.region or "")
        name = f"{access.direction} {access.width or '?'} {spot(access.space, access.offset)}"
        memory = access.space == "memory"
        texts = {
            "register": event.named.text if event.named is not None else None,
            "value": _text(access.value),
            "extent": None if access.extent is None else str(access.extent),
            "space": None if memory else access.space,
            "address": hex(access.physical),
            "symbol": record.symbol,
            "rip": hex(record.rip),
            "text": record.text,
            "via": record.via,
            "cause": None if access.space == "msi" else record.cause,
            "source": record.cause if access.space == "msi" else None,
            "phase": event.phase,
            "device": _text(access.device),
            "skipped": "true" if access.skipped else None,
            "note": record.note,
            "agrees": "false" if record.agrees is False else None,
        }
        kind = "mmio" if memory else access.space
        self._instant(track, record.time_ns, name.rstrip(), kind, texts, {"seq": event.seq})

    def user(self, record: UserRecord) -> None:
        texts = {name: _text(value) for name, value in record.registers.items()}
        for access in record.accesses:
            where = f"{access.region or ''}+{_text(access.offset) or '?'}"
            texts[f"{access.direction} {access.width} {where}"] = _text(access.value)
        track = self._track(None, _USER)
        self._instant(track, record.time_ns, record.text, _USER, texts, {"vcpu": record.vcpu})

    def mark(self, record: Mark) -> None:
        track = self._track(None, _MARKS)
        self._instant(track, record.time_ns, record.text, _MARKS, {}, {})

    def call(self, record: CallRecord) -> None:
        texts = {f"in {name}": _text(value) for name, value in record.given.items()}
        texts |= {f"out {name}": _text(value) for name, value in record.returned.items()}
        texts |= {"symbol": record.symbol, "rip": hex(record.rip), "note": record.note}
        track = self._track(record.vcpu, _CALLS)
        kind = "tdcall" if isinstance(record, TdcallRecord) else "vmgexit"
        self._instant(track, record.time_ns, record.name, kind, texts, {})

    def shared(self, record: SharedRecord) -> None:
        texts = {"physical": hex(record.physical), "size": hex(record.size)}
        told = texts | {"symbol": record.symbol, "rip": hex(record.rip)}
        name = f"{record.what} {'shared' if record.shared else 'private'}"
        track = self._track(record.vcpu, _CALLS)
        self._instant(track, record.time_ns, name, "shared", told, {})

    def queue(self, record: QueueRecord) -> None:
        texts: dict[str, str | None] = {
            f"{entry.kind} {entry.index}": entry.text or entry.data.hex()
            for entry in record.entries
        }
        texts |= {"note": record.note, "late": "true" if record.late else None}
        track = self._track(record.vcpu, record.region)
        name = f"{record.queue}[{record.number}]"
        self._instant(track, record.time_ns, name, "queue", texts, {"seq": record.seq})

    def wait(self, record: WaitRecord) -> None:
        texts: dict[str, str | None] = {"awaited": awaited_words(record)}
        texts |= {"ends": gives_up_words(record), "symbol": record.symbol, "loop": record.loop}
        track = self._track(record.vcpu, record.region)
        name = f"waits for {record.register or hex(record.offset)}"
        self._instant(track, record.time_ns, name, "wait", texts, {"seq": record.seq})

    def lost(self, record: LostRecord) -> None:
        losses = Losses()
        losses.add(record)
        numbers = {"vcpu": record.vcpu, "count": record.count}
        known = {name: number for name, number in numbers.items() if number is not None}
        track = self._track(None, _MARKS)
        self._instant(track, record.time_ns, losses.words, "lost", {}, known)

    def _instant(
        self,
        track: int,
        time_ns: int,
        name: str,
        category: str,
        texts: Mapping[str, str | None],
        numbers: Mapping[str, int],
    ) -> None:
        packet = self._packet()
        packet.timestamp = time_ns
        told = packet.track_event
        told.type = TrackEvent.TYPE_INSTANT
        told.track_uuid = track
        told.name = name
        told.categories.append(category)
        for key, text in texts.items():
            if text is not None:
                argument = told.debug_annotations.add()
                argument.name, argument.string_value = key, text
        for key, number in numbers.items():
            argument = told.debug_annotations.add()
            argument.name, argument.int_value = key, number
        self._builder.write_packet(packet)

    # The track of a region on a vCPU, of the vCPU itself for an empty name, or of the person.
    def _track(self, vcpu: int | None, region: str) -> int:
        key = vcpu, region
        if key not in self._tracks:
            parent = self._track(vcpu, "") if region and vcpu is not None else 0
            number = self._tracks[key] = len(self._tracks) + 1
            packet = self._packet()
            descriptor = packet.track_descriptor
            descriptor.uuid = number
            descriptor.name = region or f"vCPU {vcpu}"
            if parent:
                descriptor.parent_uuid = parent
            self._builder.write_packet(packet)
        return self._tracks[key]

    def _packet(self) -> TracePacket:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.sequence_flags, self._flags = self._flags, _NEEDED
        return packet


def _text(number: int | None) -> str | None:
    return None if number is None else hex(number)
