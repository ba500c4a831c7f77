"""Device accesses as a Perfetto trace: a track per vCPU, and below it one per region.

Ref: https://perfetto.dev/docs/reference/synthetic-track-event (TrackDescriptor, TrackEvent). An
access is an instant, named by direction, width and offset, with register, value, call site and
instruction as arguments; numbers are hex strings, since a 64-bit value does not survive every JSON
reader.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from tracer.fold import Event

_SEQUENCE = 1
_CLEARED, _NEEDED = (
    TracePacket.SEQ_INCREMENTAL_STATE_CLEARED,
    TracePacket.SEQ_NEEDS_INCREMENTAL_STATE,
)


def write(events: Iterable[Event], sink: IO[bytes]) -> int:
    """Write a trace with one instant an event, as they come; return how many there were.

    Times are guest time in nanoseconds.
    """
    output = _Output(sink)
    count = 0
    for event in events:
        output.access(event)
        count += 1
    return count


class _Output:
    def __init__(self, sink: IO[bytes]) -> None:
        self._builder = StreamingTraceProtoBuilder(sink)
        self._tracks: dict[tuple[int, str], int] = {}
        self._flags = _CLEARED | _NEEDED

    def access(self, event: Event) -> None:
        record, access = event.record, event.access
        track = self._track(record.vcpu, access.region or "")
        packet = self._packet()
        packet.timestamp = record.time_ns
        told = packet.track_event
        told.type = TrackEvent.TYPE_INSTANT
        told.track_uuid = track
        told.name = f"{access.direction} {access.width} +{access.offset or '?'}"
        told.categories.append("mmio")
        arguments = {
            "register": event.named.text if event.named is not None else None,
            "value": access.value,
            "address": access.physical,
            "symbol": record.symbol,
            "rip": record.rip,
            "text": record.text,
            "via": record.via,
            "phase": event.phase,
        }
        for name, value in arguments.items():
            if value is not None:
                argument = told.debug_annotations.add()
                argument.name, argument.string_value = name, value
        argument = told.debug_annotations.add()
        argument.name, argument.int_value = "seq", event.seq
        self._builder.write_packet(packet)

    # The track of a region on a vCPU, or of the vCPU itself for an empty name.
    def _track(self, vcpu: int, region: str) -> int:
        key = vcpu, region
        if key not in self._tracks:
            parent = self._track(vcpu, "") if region else 0
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
