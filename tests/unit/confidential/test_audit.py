"""Call sites counted and judged."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.cli.main import main
from tracer.confidential.audit import Audit, audit, side_by_side
from tracer.confidential.handler import PROFILES
from tracer.trace.call import Hypercall, TdcallRecord, VmgexitRecord
from tracer.trace.record import Intercept, MemoryAccess, Record

READ = sample.device("nvme", 0x1C, 4, "read", 1)


def record(
    seq: int, code: str, *accesses: MemoryAccess, symbol: str | None = "f+0x1", cpl: int = 0,
    rip: int = 0xFFFFFFFF81000000, stepped: bool = False,
) -> Intercept:  # fmt: skip
    """Make a record of an instruction."""
    whole = sample.intercept(seq, *(accesses or (READ,)), symbol=symbol)
    via = "stepped" if stepped else "emulated"
    return msgspec.structs.replace(whole, code=bytes.fromhex(code), cpl=cpl, rip=rip, via=via)


def judged(*records: Record, profile: str = "linux-tdx") -> Audit:
    return audit(records, PROFILES[profile])


def test_exits_are_counted_by_call_site() -> None:
    found = judged(
        record(0, "8b03"),
        record(1, "8b03"),
        record(2, "8903", symbol="g+0x2 [nvme]", rip=0xFFFFFFFFC0000000),
        sample.end(3),
    )
    assert [(s.place.function, s.place.module, s.offset, s.exits) for s in found.sites] == [
        ("f", None, "0x1", 2),
        ("g", "nvme", "0x2", 1),
    ]
    assert found.exits == 3 and found.fatal_sites == 0


def test_a_read_modify_write_is_fatal_and_comes_first() -> None:
    write = sample.device("nvme", 0x1C, 4, "write", 2)
    found = judged(*[record(n, "8b03") for n in range(9)], record(9, "0103", READ, write, rip=0x9))
    first = found.sites[0]
    assert (first.code, first.exits, first.fatal, first.verdict.outcome) == (
        b"\x01\x03",
        2,
        2,
        "oops",
    )
    assert found.fatal_sites == 1


def test_natively_stepped_records_count_too() -> None:
    found = judged(record(0, "0f5803", stepped=True))
    assert found.exits == 1 and found.fatal_sites == 1


def parts(first: MemoryAccess, offset: int) -> MemoryAccess:
    return msgspec.structs.replace(
        first, linear=first.linear + offset, physical=0x5000, region=None
    )


@pytest.mark.parametrize(
    ("profile", "outcome"), [("linux-tdx", "oops"), ("linux-tdx-v5", "emulated")]
)
def test_an_access_recorded_in_parts_crosses_a_page(profile: str, outcome: str) -> None:
    head = msgspec.structs.replace(READ, linear=0xFFFFC90000000FFE, width=2)
    tail = msgspec.structs.replace(READ, linear=0xFFFFC90000001000, width=2)
    for accesses in ((head, tail), (msgspec.structs.replace(head, region=None), tail)):
        found = judged(record(0, "8b03", *accesses), profile=profile)
        assert found.sites[0].verdict.outcome == outcome


def test_parts_of_different_pages_that_do_not_join_are_two_operands() -> None:
    source = msgspec.structs.replace(READ, linear=0xFFFFC90000000FFC)
    target = msgspec.structs.replace(READ, linear=0xFFFFC90000001000, direction="write")
    found = judged(record(0, "a5", source, target), profile="linux-sev")
    assert found.sites[0].verdict.note == ""


def test_one_bad_access_makes_a_site_fatal() -> None:
    user = msgspec.structs.replace(READ, linear=0x1000)
    found = judged(record(0, "8b03"), record(1, "8b03", user), record(2, "8b03"))
    (site,) = found.sites
    assert (site.exits, site.fatal, site.verdict.reason) == (
        3, 1, "the kernel uses a user-space address",
    )  # fmt: skip


def test_code_that_does_not_decode_is_fatal() -> None:
    assert judged(record(0, "06")).fatal_sites == 1


def test_the_costliest_functions_make_most_exits() -> None:
    def many(count: int, name: str) -> list[Record]:
        return [record(0, "8b03", symbol=f"{name}+0x0", rip=len(name))] * count

    found = judged(*many(70, "a"), *many(15, "bb"), *many(10, "ccc"), *many(5, "dddd"))
    assert [(place.function, exits) for place, exits in found.costliest()] == [
        ("a", 70),
        ("bb", 15),
    ]


def given(seq: int, code: str, *accesses: MemoryAccess, rip: int, cpl: int = 0) -> Intercept:
    """Make a record of an instruction that is given an input."""
    whole = sample.inputs(seq, *accesses)
    return msgspec.structs.replace(whole, code=bytes.fromhex(code), rip=rip, cpl=cpl)


def test_an_instruction_that_is_given_an_input_makes_one_exit() -> None:
    port = given(0, "ec", sample.port(0x64, 1, "read", 1), rip=0x1000)
    string = given(1, "f36c", sample.port(0x64, 1, "read", 1), rip=0x2000)
    records = [port, string, record(2, "8b03"), port]
    found = judged(*records)
    assert (found.exits, found.fatal_sites, found.unjudged) == (4, 1, 0)
    (first, *_) = found.sites
    assert first.code == b"\xf3\x6c" and "handle_io refuses" in first.verdict.reason
    assert judged(*records, profile="linux-sev").fatal_sites == 0
    unknown = msgspec.structs.replace(port, code=b"")
    assert judged(unknown).unjudged == 1


def test_what_is_carried_out_in_the_guest_is_told_apart_and_has_a_site() -> None:
    leaf = sample.port(1, 4, "read", 1)
    four = [msgspec.structs.replace(leaf, space="cpuid")] * 4
    records = [given(0, "0fa2", *four, rip=0x1000), given(4, "0fa2", *four, rip=0x1000)]
    tdx, sev = judged(*records), judged(*records, profile="linux-sev")
    assert (tdx.exits, tdx.inside) == (0, {"cpuid": 2})
    assert (sev.exits, sev.inside) == (2, {})
    # Each profile has all sites.
    ((one, other),) = side_by_side([tdx, sev])
    assert (one.verdict.outcome, other.verdict.outcome) == ("none", "emulated")


def test_nothing_to_judge() -> None:
    found = judged(sample.end(0))
    assert found.sites == [] and found.costliest() == [] and found.exits == 0


# --- the command


def run(tmp_path: Path, *arguments: str, records: list[Record] | None = None) -> int:
    path = tmp_path / "a.vtrace"
    sample.write(path, [sample.region("nvme"), *(records or [record(0, "8b03")]), sample.end(1)])
    return main(["audit", str(path), *arguments])


def test_status_0_when_every_site_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert "f+0x1" in out and "1 exit from 1 call site: 0 would oops" in out


def test_status_3_when_a_site_would_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--profile", "linux-sev", records=[record(0, "0103")]) == 3
    assert "1 would oops" in capsys.readouterr().out


SEV_CALL = VmgexitRecord(
    time_ns=0, vcpu=0, rip=0xFFFFFFFF81000000, code=0x72, name="CPUID", given={}, returned={}
)
TDX_CALL = TdcallRecord(
    time_ns=0, vcpu=0, rip=0xFFFFFFFF81000000, leaf=1, name="TDG.VP.INFO", given={}, returned={}
)
SEV_ASKED = Hypercall(
    given={"sw_exit_code": 0x80000001, "sw_exit_info_1": 0xFEBEC000, "sw_exit_info_2": 4},
    returned={"shared_buffer": 1},
)
TDX_ASKED = Hypercall(given={"r12": 4}, returned={})


def asked(call: Hypercall) -> Record:
    return msgspec.structs.replace(record(0, "8b03"), via="guest", asked=call)


@pytest.mark.parametrize(
    ("first", "profile", "of"),
    [
        ([SEV_CALL], "linux-sev", "SEV-ES"),
        ([asked(SEV_ASKED)], "linux-sev", "SEV-ES"),
        ([TDX_CALL], "linux-tdx-5.19", "TDX"),
        ([asked(TDX_ASKED)], "linux-tdx-5.19", "TDX"),
        ([], "linux-tdx", ""),
    ],
)
def test_a_confidential_guest_is_judged_by_its_own_handler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    first: list[Record], profile: str, of: str,
) -> None:  # fmt: skip
    header = msgspec.structs.replace(sample.HEADER, kernel="6.1.0-56-cloud-amd64")
    monkeypatch.setattr(sample, "HEADER", header)
    records = [*first, record(len(first), "8b03")]
    assert run(tmp_path, records=records) == 0
    lines = capsys.readouterr().out.splitlines()
    (heading,) = [line for line in lines if line.startswith("linux-")]
    assert heading.startswith(f"{profile}: ")
    assert heading.endswith(f"(the traced {of} guest's own)") is bool(of)
    assert run(tmp_path, "--json", records=records) == 0
    assert json.loads(capsys.readouterr().out)["profile"] == profile
    assert run(tmp_path, "--profile", "linux-sev-5.10", records=records) == 0
    assert "guest's own" not in capsys.readouterr().out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--json", records=[record(0, "f3a5")]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["profile"] == "linux-tdx" and found["fatal_call_sites"] == 1
    (site,) = found["sites"]
    assert site["function"] == "f" and site["module"] is None and site["count"] == 1
    assert site["outcome"] == "oops" and "MOVS" in site["reason"]
    assert found["functions"][0]["paravirtualise"] is True


def test_unknown_profile_is_a_usage_error_that_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--profile", "linux-arm") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(name in error for name in PROFILES)


def test_a_trace_without_accesses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sample.write(tmp_path / "a.vtrace", [sample.end(0)])
    assert main(["audit", str(path)]) == 0
    assert "no device access" in capsys.readouterr().out


def bare(seq: int) -> Intercept:
    """Make a record without its instruction, as an import makes it."""
    made = record(seq, "", stepped=True, rip=seq)
    return msgspec.structs.replace(made, text="(not in the log)", before={}, after={})


def test_nothing_can_be_said_without_instructions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ((), ("--json",), ("--profile", "all")):
        assert run(tmp_path, *arguments, records=[bare(0), bare(1)]) == 1
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1
        assert "nothing can be said of its 2 accesses" in error and "oops" not in error


def test_what_cannot_be_judged_is_told_beside_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, records=[record(0, "8b03"), bare(1)]) == 1
    out, error = capsys.readouterr()
    assert "1 exit from 1 call site: 0 would oops" in out
    assert "not judged: 1 of 2 accesses" in error
    assert run(tmp_path, "--json", records=[record(0, "0103"), bare(1)]) == 3
    assert json.loads(capsys.readouterr().out)["unjudged"] == 1


@pytest.mark.parametrize(
    ("filters", "status", "exits"),
    [
        ((), 3, 3),
        (("--region", "hpet"), 0, 1),
        (("--symbol", "g"), 3, 2),
        (("--read",), 3, 2),
        (("--write",), 3, 1),
        (("--symbol", "f", "--register", "CSTS"), 0, 0),
    ],
)
def test_filters_choose_what_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filters: tuple[str, ...], status: int,
    exits: int,
) -> None:  # fmt: skip
    write = sample.device("nvme", 0x1C, 4, "write", 2)
    records: list[Record] = [
        sample.region("hpet"),
        record(0, "8b03", sample.device("hpet", 0, 4, "read", 1)),
        record(1, "0103", READ, write, symbol="g+0x1", rip=0xFFFFFFFF81000001),
    ]
    assert run(tmp_path, "--json", *filters, records=records) == status
    assert json.loads(capsys.readouterr().out)["exits"] == exits


def test_a_region_that_is_not_there_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--region", "edu") == 2
    assert "no region of" in capsys.readouterr().err


# MOVS is fatal under TDX alone, a read into AH right under none.
MIXED = [record(0, "a5"), record(1, "8a23", rip=0x9, symbol="g+0x2")]


def test_all_profiles_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--profile", "all", "--json", records=MIXED) == 3
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["profiles"]
    assert [item["profile"] for item in found["profiles"]] == list(PROFILES)
    alone = []
    for name in PROFILES:
        run(tmp_path, "--profile", name, "--json", records=MIXED)
        alone.append(json.loads(capsys.readouterr().out))
    assert found["profiles"] == alone
    fatal = {item["profile"]: item["fatal_call_sites"] for item in alone}
    assert fatal["linux-tdx"] == 1 and fatal["linux-sev"] == 0


def test_the_report_on_all_profiles_names_those_that_a_remark_concerns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--profile", "all", records=MIXED) == 3
    out = capsys.readouterr().out
    heading = next(line for line in out.splitlines() if "instruction" in line)
    assert all(name in heading for name in PROFILES)
    tdx = ", ".join(name for name in PROFILES if "tdx" in name)
    assert f"MOVS is decoded, then rejected ({tdx})" in out
    assert f"ah is taken for spl ({', '.join(PROFILES)})" in out
    sev = f"linux-sev: {PROFILES['linux-sev'].kernels}"
    assert f"{sev}: 0 would oops, 1 would" in out


def test_all_profiles_agree_that_a_site_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--profile", "all") == 0
    assert "1 exit from 1 call site\n" in capsys.readouterr().out
