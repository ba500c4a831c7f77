"""QEMU's memory map, parsed, and its device regions, named.

Ref: QEMU ``info mtree -f -o`` (softmmu/memory.c, mtree_print_flatview, mtree_print_mr_owner);
docs/devel/qom.rst for paths: a part of a device lies below it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracer.access.region import Region

_LINE = re.compile(
    r"^\s*(?P<start>[0-9a-f]{16})-(?P<end>[0-9a-f]{16}) \(prio -?\d+, (?P<kind>[^)]+)\): "
    r"(?P<name>.*?)(?: @(?P<offset>[0-9a-f]{16}))?"
    r"(?: (?:owner|parent):\{(?P<owner>[^}]*)\})*\s*$"
)
_SPACE = re.compile(r'^\s*AS "(?P<name>[^"]*)"')

_ROM_DEVICE = "romd"
"""A device that shows its memory to reads; it becomes plain i/o and back as its mode changes."""

_DEVICE_KINDS = frozenset({"i/o", _ROM_DEVICE})
_MEMORY_KINDS = frozenset({"ram", "rom"})

_PERIPHERAL = "/machine/peripheral"
"""Where devices are that the user gave an id (qdev_set_id)."""

_MACHINE = "/machine"
_CONTAINER = "container"
"""The type of what only keeps devices apart by where they come from."""

_WELL_KNOWN = {
    "apic-msi": "lapic",
    "kvm-apic-msi": "lapic",
    "pcie-mmcfg-mmio": "ecam",
    "vga-lowmem": "vga.window",
}
"""Names that Linux people use, by QEMU's."""

_VIRTIO_PART = re.compile(r"^virtio-pci-(?P<part>common|isr|device|notify)\b")


@dataclass(frozen=True, slots=True)
class FlatRange:
    """Hold one line of a flat view; ``end`` is inclusive, ``offset`` is into the region named.

    ``owner`` is QEMU's word for the device: ``dev id=nvme``, ``dev path=/machine/q35``.
    """

    start: int
    end: int
    kind: str
    name: str
    offset: int
    owner: str

    @property
    def is_device(self) -> bool:
        """Tell whether a device answers accesses."""
        return self.kind in _DEVICE_KINDS

    @property
    def is_memory(self) -> bool:
        """Tell whether there is nothing but memory."""
        return self.kind in _MEMORY_KINDS

    @property
    def path(self) -> str:
        """Return the QOM path of the owner, empty where it has none."""
        _, id_, name = self.owner.partition("id=")
        return f"{_PERIPHERAL}/{name}" if id_ else self.owner.partition("path=")[2]


def parse_flat_view(text: str, space: str = "memory") -> list[FlatRange]:
    """Return the ranges of the flat view that CPUs see, out of ``info mtree -f -o``.

    That of I/O ports has the ``space`` "I/O". Raises ValueError when there is none.
    """
    for view in text.split("FlatView #")[1:]:
        lines = view.splitlines()
        spaces = {match["name"] for line in lines if (match := _SPACE.match(line))}
        if space in spaces:
            return [_flat_range(match) for line in lines if (match := _LINE.match(line))]
    raise ValueError(f'no address space "{space}" in QEMU\'s memory map')


def _flat_range(match: re.Match[str]) -> FlatRange:
    return FlatRange(
        start=int(match["start"], 16),
        end=int(match["end"], 16),
        kind=match["kind"],
        name=match["name"],
        offset=int(match["offset"] or "0", 16),
        owner=match["owner"] or "",
    )


def device_paths(ranges: Iterable[FlatRange]) -> list[str]:
    """Return the QOM paths of whatever owns a device range or lies around its owner, once each."""
    owners = (item.path for item in ranges if item.is_device)
    return list(dict.fromkeys(path for owner in owners for path in _upwards(owner)))


def _upwards(path: str) -> list[str]:
    # The path and those around it, nearest first; the machine itself is no device.
    found = []
    while path and path != _MACHINE:
        found.append(path)
        path = path.rpartition("/")[0]
    return found


class DeviceNames:
    """Give each device one name for a whole run, whatever moves or comes later.

    A name is the user's id, else the type, with ``#2``, ``#3`` for further ones of the same type.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._used: Counter[str] = Counter()

    def name(self, key: str, stem: str) -> str:
        """Return the name of the device with a QOM path, or another word that only it has."""
        if key not in self._names:
            self._used[stem] += 1
            count = self._used[stem]
            self._names[key] = stem if count == 1 else f"{stem}#{count}"
        return self._names[key]

    def known(self, key: str) -> str | None:
        """Return the name that a device was given, None where it has none so far."""
        return self._names.get(key)

    def __contains__(self, name: str) -> bool:
        return name in self._used


def name_regions(
    ranges: Iterable[FlatRange], types: Mapping[str, str], names: DeviceNames
) -> list[Region]:
    """Return the device regions among the ranges, each with a name a person would type.

    ``types`` has the QOM type of each of :func:`device_paths`. A device with several regions gives
    each its own part: ``nvme.msix-table``.
    """
    devices = [item for item in ranges if item.is_device]
    # Those with regions first, in the order of addresses: what is around them takes no number away.
    own = {_key(item): names.name(_key(item), _own_stem(item, types)) for item in devices}
    around = {key: _around(key, types, names) for key in own}
    parts: dict[str, set[str]] = {}
    for item in devices:
        parts.setdefault(_key(item), set()).add(item.name)
    return [
        Region(
            name=_region_name(item.name, own[key], alone=len(parts[key]) == 1),
            start=item.start,
            end=item.end,
            base=item.start - item.offset,
            device=own[key],
            qemu_name=item.name,
            within=around[key],
            types=_hidden_types(key, types, names),
            shows_memory=item.kind == _ROM_DEVICE,
        )
        for item, key in ((item, _key(item)) for item in devices)
    ]


def _key(item: FlatRange) -> str:
    # A region that nobody owns stands for itself.
    return item.path or item.name


def _own_stem(item: FlatRange, types: Mapping[str, str]) -> str:
    # A board may have a word of its own for a device, and for its region: system.flash0.
    own = item.path.endswith(f"/{item.name}")
    return item.name if own else _stem(_key(item), types)


def _stem(path: str, types: Mapping[str, str]) -> str:
    folder, _, last = path.rpartition("/")
    if folder == _PERIPHERAL:
        return last
    return types.get(path, last).replace(" ", "-").lower()


def _around(path: str, types: Mapping[str, str], names: DeviceNames) -> tuple[str, ...]:
    # The devices that a device is a part of, nearest first.
    return tuple(names.name(outer, _stem(outer, types)) for outer in _devices(path, types)[1:])


def _devices(path: str, types: Mapping[str, str]) -> list[str]:
    return [each for each in _upwards(path) if types.get(each) != _CONTAINER]


def _hidden_types(path: str, types: Mapping[str, str], names: DeviceNames) -> tuple[str, ...]:
    # The types that names do not tell, as far as no device is called by them.
    found = (types.get(each, "") for each in _devices(path, types))
    return tuple(dict.fromkeys(kind for kind in found if kind and kind not in names))


def _region_name(name: str, device: str, *, alone: bool) -> str:
    if name in _WELL_KNOWN:
        return _WELL_KNOWN[name]
    if virtio := _VIRTIO_PART.match(name):
        return f"{device}.{virtio['part']}"
    if name == device:
        return device
    if alone and device.partition("#")[0].startswith(name):
        # The device's only region carries its short name: hpet, ioapic.
        return name + device[len(device.partition("#")[0]) :]
    part = re.sub(rf"^{re.escape(device)}[-.]|\[\d+\]$", "", name)
    return f"{device}.{part.replace(' ', '-')}"
