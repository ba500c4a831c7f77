"""`tests/unit` mirrors `tracer`: whoever has found a module has found its tests, and the other
way."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

ROOT = Path(__file__).parents[3]
TRACER, UNIT = ROOT / "tracer", ROOT / "tests" / "unit"

# Folders that belong to no package, and why.
OF_NO_PACKAGE = {
    "across": "what several packages have in common",
    "docs": "the pages that people read",
}

# Tests that are called after what they are about, and not after a module.
TOPICS = {
    "check/witness/ports": "ports in a trace and in QEMU's log",
    "check/witness/interrupt_order": "interrupts in a trace and in QEMU's log",
    "check/witness/configuration_space": "PCI configuration space in a trace and in QEMU's log",
    "cli/pipe": "a trace that comes through a pipe, of each command that reads one",
    "cli/progress": "how far a long trace has been read, of each command that reads one",
    "devices/names": "the commands over traces name registers",
    "export/formats": "Perfetto and Parquet, as their own libraries read them",
    "look/views": "all views of one stopped guest",
    "repl/calls": "a confidential guest's calls at the prompt, of several modules",
    "repl/commands": "the commands of the prompt, of all modules in commands/",
    "repl/programs": "the commands of the prompt: what programs get",
    "repl/python": "a person's Python at the prompt, of several modules",
    "repl/refusals": "the commands of the prompt: what they refuse",
    "trace/file": "reader and writer, round",
    "x86/poll/loop": "the loop around a read, of the package as a whole",
    "x86/pitfalls": "known pitfalls of emulators, of the whole way from bytes to bus",
    "x86/emulate/execute": "instructions on general-purpose registers, of all modules",
}

# Modules without a file of their own, by the test that knows them.
TESTED_BY = {
    "access/test_execution": "access/recorded access/space access/state access/transfer",
    "bare/test_moment": "bare/guidance",
    "bare/test_multiboot": "bare/elf",
    "check/test_diff": "check/lines",
    "compiled/test_thunk": "compiled/cell compiled/encoder compiled/ending compiled/move"
    " compiled/rewrite compiled/stack compiled/strings",
    "compiled/test_module": "compiled/module_image compiled/pending",
    "compiled/test_monitor": "compiled/monitor_image x86/segment",
    "compiled/test_common": "compiled/image compiled/layout compiled/stack_copy",
    "check/test_replay": "check/divergence",
    "check/witness/test_matching": "check/comparison check/qemu_log check/witness/alignment"
    " check/witness/fingerprint check/witness/recovery check/witness/side"
    " check/witness/territory check/witness/traced check/witness/pair check/witness/beginning",
    "confidential/test_expectation": "confidential/handling",
    "confidential/test_sev_host": "confidential/sev_exit confidential/sev_state",
    "confidential/test_tdx_module": "confidential/tdx_field confidential/tdx_leaf"
    " confidential/tdx_service confidential/tdx_state confidential/tdx_status",
    "cli/test_main": "cli/audit cli/diff cli/doctor cli/export cli/guest_arguments"
    " cli/interactive cli/parser cli/regions cli/replay cli/stats"
    " cli/terminal cli/verify",
    "devices/test_description": "cli/register_import devices/description/ipxact"
    " devices/description/markup devices/description/rdl devices/description/svd"
    " devices/description/svd_elements devices/writing",
    "devices/test_file": "devices/table",
    "devices/test_map": "devices/tree",
    "export/test_formats": "cli/extra cli/output export/parquet export/perfetto trace/flat",
    "across/test_api": "export/dataframe",
    "across/test_hostile_guest": "cli/guest_console",
    "export/test_mmiotrace": "export/mmiotrace/event export/mmiotrace/form"
    " export/mmiotrace/places export/mmiotrace/reader export/mmiotrace/writer",
    "across/test_texts": "gdb/console qemu/monitor",
    "guest/test_initramfs": "guest/disk guest/program",
    "host/test_signals": "host/streams",
    "linux/test_callers": "linux/stacks",
    "access/test_symbols": "linux/kaslr",
    "bare/test_system": "bare/open",
    "look/test_views": "look/code look/dump look/region look/registers look/sheet look/stack",
    "look/test_plan": "look/change look/operand look/plan_view look/rehearsal",
    "confidential/test_host_inputs": "cli/host_inputs",
    "report/page/test_contents": "report/page/accesses report/page/coverage",
    "cli/test_decode": "look/explanation",
    "cli/test_registers": "look/register_sheet",
    "repl/test_calls": "look/call query/called",
    "intercept/entry/test_stub": "intercept/entry/door intercept/entry/spill",
    "query/test_breakpoint": "confidential/call_name query/breakpoint/pattern"
    " query/breakpoint/state query/breakpoint/table query/breakpoint/words query/origin"
    " query/place",
    "query/test_tally": "query/aggregate report/tally",
    "query/test_facts": "query/course query/pending query/waiting",
    "session/test_host": "session/outlook session/own_host host/own_code",
    "query/test_sieve": "query/roster query/words",
    "query/test_condition": "query/condition/asked query/condition/closure query/condition/cursor"
    " query/condition/grammar query/condition/lexeme query/condition/lexicon"
    " query/condition/mention query/condition/moment query/condition/naming query/condition/node"
    " query/condition/term query/condition/vocabulary",
    "repl/test_commands": "repl/command repl/live repl/run repl/commands/change repl/commands/go"
    " repl/commands/host repl/commands/info repl/commands/look repl/commands/prompt"
    " repl/commands/register repl/commands/script repl/commands/stop"
    " repl/commands/watch repl/console repl/context repl/expression repl/extension repl/guest"
    " repl/interpreter repl/names repl/result repl/stop repl/counts repl/aim repl/thread"
    " repl/watching access/decision session/control session/custody",
    "repl/test_prompt": "repl/completion repl/conversation repl/dumb repl/feed repl/feed_lines"
    " repl/history repl/parser repl/toolbar",
    "repl/test_editor": "repl/clause repl/highlight repl/pager repl/setting",
    "repl/test_hosting": "cli/hosting",
    "repl/test_tally": "repl/commands/pipe repl/commands/tally",
    "repl/test_shell": "repl/interruption repl/script",
    "trace/test_lines": "text/colour trace/layout trace/place report/objects",
    "trace/test_codec": "trace/call trace/member trace/record trace/registers trace/wire",
    "trace/test_block": "trace/antecedents trace/compiled trace/legend trace/site",
    "cli/test_open": "access/reenactment query/past repl/playback repl/recording_view repl/scene"
    " repl/search repl/trace_names",
    "trace/test_file": "trace/reader trace/writer",
    "trace/test_marker": "trace/loss",
    "cli/test_allow_list": "report/allow_list trace/allowed",
    "cli/test_filters": "trace/met",
    "cli/test_recover": "trace/recovery",
    "devices/test_names": "trace/naming",
    "trace/test_summary": "trace/phase",
    "trace/test_waiting_words": "trace/waiting",
    "intercept/queue/test_doorbell": "devices/queue devices/queue_file intercept/queue/ring"
    " trace/queue",
    "x86/poll/test_value": "x86/poll/condition x86/poll/effect x86/poll/state",
    "x86/test_decode": "x86/disassembler x86/instruction x86/mapped x86/modrm x86/opcode/evex"
    " x86/opcode/legacy x86/opcode/name x86/opcode/row x86/opcode/vex x86/prefix x86/touch",
    "x86/emulate/test_execute": "x86/bus x86/state x86/emulate/access x86/emulate/address"
    " x86/emulate/arithmetic x86/emulate/atomic x86/emulate/bit x86/emulate/division"
    " x86/emulate/evaluate x86/emulate/flags x86/emulate/shift x86/emulate/special"
    " x86/emulate/stack x86/emulate/state x86/emulate/string x86/emulate/unit"
    " x86/forms/integer x86/forms/row x86/forms/stack",
    "x86/emulate/test_vector": "x86/emulate/cipher x86/emulate/mask x86/emulate/packed"
    " x86/emulate/search x86/emulate/shuffle x86/forms/cipher x86/forms/family"
    " x86/forms/packed x86/forms/shuffle x86/forms/vector",
    "x86/emulate/test_x87": "x86/emulate/real x86/forms/x87",
}

# Modules of the engine, by the playbook that knows them.
BY_PLAYBOOK = {
    "test_arrival": "linux/arrival",
    "test_bare_traps": "bare/hooks bare/watch",
    "test_bench": "intercept/below/bench intercept/below/vc_trial",
    "test_encrypted_guest": "intercept/below/encrypted_guest",
    "test_installed": "linux/installed",
    "test_protocol_bell": "intercept/below/protocol_bell",
    "test_sev_entry": "linux/sev_entry",
    "test_driver": "access/want session/driver session/session session/waits",
    "test_freed_code": "linux/freed_code",
    "test_gate": "intercept/entry/padding",
    "test_guest_module": "intercept/below/guest_module",
    "test_interceptor": "intercept/answer intercept/carrier intercept/delivery intercept/fault"
    " intercept/below/firmware intercept/ledger intercept/oversight"
    " intercept/interceptor intercept/names intercept/native_step intercept/port"
    " intercept/standin intercept/view",
    "test_linux_traps": "linux/entry linux/hooks linux/place linux/readers linux/system"
    " linux/user linux/wrappers",
    "test_course": "session/course",
    "test_input_bell": "intercept/ring/asked_input intercept/ring/input_bell",
    "test_monitor": "intercept/ring/entrance intercept/ring/monitor intercept/ring/secondary",
    "test_nested": "intercept/entry/nested intercept/entry/sight session/interception"
    " session/nested",
    "test_sites": "intercept/ring/block intercept/ring/pace intercept/ring/rows"
    " intercept/ring/sites intercept/ring/stops",
    "test_trust_domain": "intercept/below/granting intercept/below/inquiry"
    " intercept/below/trust_domain intercept/below/waiting",
    "test_traps": "access/mapping access/stack access/stop access/vcpu intercept/blame"
    " intercept/call intercept/clock intercept/ground"
    " intercept/entry/interrupt_stack intercept/entry/loads intercept/poison intercept/entry/post"
    " intercept/system intercept/trap intercept/entry/visit intercept/ring/window session/loop"
    " session/leash session/manner session/preparation session/queues session/reach session/release"
    " session/room session/traps session/whereabouts",
}

# Modules that need QEMU, GDB or apt, by the test that runs these.
ON_A_GUEST = {
    "test_attach": "cli/attach cli/guest cli/traced_run launch/attach qemu/foreign qemu/guest",
    "test_live": "intercept/below/ve_trial launch/borrow linux/handler_end",
    "test_page": "report/page/plotting",
    "test_page_conditions": "report/page/language",
    "test_recover": "host/keeper launch/ring",
    "test_inputs": "cli/run_arguments",
    "test_boot": "cli/boot gdb/target launch/start qemu/machine",
    "test_fault": "host/process",
    "test_installation": "host/package host/scratch",
}


def modules() -> set[str]:
    """The modules of vetrace, as paths below ``tracer``."""
    return {
        path.relative_to(TRACER).with_suffix("").as_posix()
        for path in TRACER.rglob("*.py")
        if path.name != "__init__.py" and len(path.relative_to(TRACER).parts) > 1
    }


def files() -> set[str]:
    """The test files, as paths below ``tests/unit``."""
    return {path.relative_to(UNIT).with_suffix("").as_posix() for path in UNIT.rglob("test_*.py")}


def test_each_folder_is_a_package() -> None:
    folders = {path.parent.relative_to(UNIT) for path in UNIT.rglob("test_*.py")}
    strange = {
        folder.as_posix()
        for folder in folders
        if folder.as_posix() not in OF_NO_PACKAGE and not (TRACER / folder).is_dir()
    }
    assert strange == set()


def test_each_test_is_called_after_what_it_tests() -> None:
    for test in files():
        folder, _, name = test.rpartition("/")
        if folder in OF_NO_PACKAGE:
            continue
        about = f"{folder}/{name.removeprefix('test_')}"
        known = about in modules() or (TRACER / about).is_dir() or about in TOPICS
        assert known, f"tests/unit/{test}.py is called after no module"


def test_each_module_has_a_test_that_knows_it() -> None:
    listed = {
        module: f"unit/{test}.py" for test, names in TESTED_BY.items() for module in names.split()
    }
    for folder, known in (("engine", BY_PLAYBOOK), ("functional", ON_A_GUEST)):
        listed |= {
            module: f"{folder}/{test}.py"
            for test, names in known.items()
            for module in names.split()
        }
    for test in listed.values():
        assert (ROOT / "tests" / test).exists(), test
    own = {
        f"{test.rpartition('/')[0]}/{test.rpartition('/')[2].removeprefix('test_')}"
        for test in files()
    }
    assert sorted(modules() - own - set(listed)) == []
    assert sorted(set(listed) - modules()) == [], "listed, and not there"
    assert sorted(set(listed) & own) == [], "listed, and has a file of its own"


def imported_from_elsewhere() -> dict[str, set[str]]:
    """The names that modules of other packages import from each package."""
    found: dict[str, set[str]] = {}
    for path in TRACER.rglob("*.py"):
        own = path.relative_to(TRACER).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level:
                continue
            top, package, name = [*(node.module or "").split("."), "", ""][:3]
            if top == "tracer" and package != own and package and (TRACER / package).is_dir():
                names = {name} if name else {alias.name for alias in node.names}
                found.setdefault(package, set()).update(names)
    return found


def test_each_package_names_what_others_may_import() -> None:
    for package, names in imported_from_elsewhere().items():
        told = set(importlib.import_module(f"tracer.{package}").__all__)
        assert sorted(names - told) == [], f"tracer.{package} is imported from, and tells not"
        for name in told:
            here = TRACER / package / name
            known = here.with_suffix(".py").exists() or here.is_dir() or name[0].isupper()
            assert known, f"tracer.{package} tells of {name}, which it has not"
