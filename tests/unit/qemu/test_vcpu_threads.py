"""tracer.qemu.vcpu_threads: vCPUs that take turns where QEMU needs it."""

from __future__ import annotations

import pytest

from tracer.qemu.vcpu_threads import in_sound_threads

OLD = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"
NEW = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"
FIRST = "QEMU emulator version 8.1.0"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("-machine q35,accel=tcg -smp 2", "-machine q35 -smp 2 -accel tcg,thread=single"),
        ("-M accel=tcg -S", "-S -accel tcg,thread=single"),
        ("-machine pc -machine smm=off", "-machine pc -machine smm=off -accel tcg,thread=single"),
        ("-machine pc -accel tcg", "-machine pc -accel tcg,thread=single"),
        ("--accel tcg,tb-size=64", "--accel tcg,tb-size=64,thread=single"),
        ("-M q35,accel=tcg -accel tcg", "-M q35 -accel tcg,thread=single"),
    ],
)
def test_an_old_qemu_has_its_vcpus_take_turns(given: str, wanted: str) -> None:
    assert in_sound_threads(given.split(), OLD) == wanted.split()


@pytest.mark.parametrize(
    "given",
    [
        "-machine pc -accel tcg,thread=multi",
        "-machine pc -accel kvm",
        "-machine pc,accel=kvm",
        "-machine pc,accel=kvm:tcg",
        "-machine q35,accel=tcg -accel kvm",
        "-machine q35,accel=tcg -enable-kvm",
    ],
)
def test_what_a_user_says_of_it_stays(given: str) -> None:
    assert in_sound_threads(given.split(), OLD) == given.split()


@pytest.mark.parametrize("about", [NEW, FIRST, ""])
def test_another_qemu_has_as_many_threads_as_vcpus(about: str) -> None:
    assert in_sound_threads(["-machine", "q35,accel=tcg"], about) == ["-machine", "q35,accel=tcg"]


@pytest.mark.parametrize("about", [OLD, NEW])
def test_what_a_user_says_of_tcg_takes_the_place_of_what_was_there(about: str) -> None:
    given = "-machine q35,accel=tcg -S -accel tcg,thread=multi,tb-size=64"
    wanted = "-machine q35 -S -accel tcg,thread=multi,tb-size=64"
    assert in_sound_threads(given.split(), about) == wanted.split()
