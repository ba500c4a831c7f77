"""The page that `vetrace report` writes, in a browser: clicks, keys, and what is shown then."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trace_sample as sample
from msgspec.structs import replace
from page_browser import Page, page_browser
from PIL import Image, ImageStat
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tracer.cli import main
from tracer.trace.queue import QueueEntry, QueueRecord
from tracer.trace.record import (
    Intercept,
    Mark,
    Record,
    RegionInfo,
    RegionRecord,
    StackFrame,
    StackRecord,
    UserRecord,
)
from tracer.trace.waiting import WaitRecord, WayOut
from tracer.x86.state import GPR

pytest.importorskip("bokeh")
ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst"
CHOSEN = "#rows .row[aria-selected=true]"


def report(folder: Path, *words: str | Path) -> Path:
    """Write a page into a folder, and return its path."""
    page = folder / "report.html"
    assert main.main(["report", *map(str, words), "-o", str(page)]) == 0
    return page


def polled(turns: int) -> list[Record]:
    """Return a trace: a register is set, another one polled, an answer changed by a person."""
    written = sample.device("nvme", 0x14, 4, "write", 0x460001)
    loop = [
        sample.intercept(
            seq, sample.device("nvme", 0x1C, 4, "read", int(seq == turns)),
            symbol="nvme_wait_ready+0x50",
        )
        for seq in range(1, turns + 1)
    ]  # fmt: skip
    lied = replace(sample.device("nvme", 0x8, 4, "read", 0x10000), device=0x10400)
    records: list[Record] = [
        sample.region("nvme"),
        sample.region("hpet"),
        StackRecord(time_ns=1, id=7, frames=[StackFrame(rip=1, symbol="nvme_reset_work+0x41c")]),
        replace(
            sample.intercept(0, written, text="mov dword ptr [rax], edx"),
            stack=7,
            before=dict.fromkeys(GPR, 5) | {"rflags": 0x2, "rax": 0xFFFFC90000000014},
        ),
        *loop,
        Mark(time_ns=214_318_000 + turns, text="before the answer"),
        UserRecord(time_ns=214_318_000 + turns, text="set value 0x10000"),
        sample.intercept(turns + 1, lied, symbol="nvme_enable+0x1"),
        sample.intercept(turns + 2, sample.device("hpet", 0xF0, 8, "read", 1 << 40)),
    ]
    return [*records, sample.end(turns + 3)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with page_browser() as page:
        yield page


@pytest.fixture(scope="module")
def polling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("polling")
    return report(folder, sample.write(folder / "polling.vtrace", polled(1000)))


def type_condition(page: Page, text: str) -> None:
    field = page.one("#condition")
    field.clear()
    field.send_keys(text, Keys.ENTER)


def shows(page: Page, text: str) -> None:
    """Wait until the page says how many accesses it shows."""
    page.until("return document.querySelector('#shown').textContent === arguments[0]", text)


def refuses(page: Page, *lines: str) -> None:
    """Wait until the page says this of its condition, which it has read while it was typed too."""
    script = "return document.querySelector('#wrong').textContent === arguments[0]"
    page.until(script, "\n".join(lines))


def told(page: Page, text: str) -> None:
    """Wait until the access that is told in full has a text in it."""
    page.until("return document.querySelector('#detail').textContent.includes(arguments[0])", text)


def test_an_access_is_told_in_full_on_a_click(browser: Page, polling: Path) -> None:
    browser.open(polling)
    shows(browser, "1,003 accesses")
    first = browser.one("#rows .row")
    assert first.text.split() == (
        ["0", "0.214318", "nvme_pci_enable+0x5e", "nvme+0x14", "CC", "W4", "0x00460001"]
    )
    first.click()
    told(browser, "Plan")
    detail = browser.text("#detail")
    assert "Controller Configuration" in detail
    rows = browser.texts("#detail .fields tbody tr")
    assert any("IOSQES" in row and "6" in row for row in rows)
    assert any(row.startswith("0EN1") for row in rows)
    assert browser.texts("#detail .chain li") == ["nvme_pci_enable+0x5e", "nvme_reset_work+0x41c"]
    # A recorded chain has the call site itself.
    recorded = "return chained('a+0x1', ['a+0x1', 'b+0x2']).concat(chained('a+0x1', ['b+0x2']))"
    assert browser.run(f"const {{chained}} = vetrace; {recorded}") == ["a+0x1", "b+0x2"] * 2
    registers = browser.texts("#detail .registers tbody tr")
    assert "rax0xffffc900000000140x1" in registers
    assert "rdx0x5" in registers
    assert "linux-tdx" in detail
    # A lane's name is cut with a sign that it is.
    cut = "getComputedStyle(document.querySelector('#regions .link'))"
    assert browser.run(f"return [{cut}.textOverflow, {cut}.display]") == ["ellipsis", "block"]
    assert browser.complaints() == []


def test_a_loop_is_one_line_that_unfolds(browser: Page, polling: Path) -> None:
    browser.open(polling)
    (more,) = browser.all("#rows .is-more")
    assert more.text == "↻ 999 more, 998 ns, to #1,000 0x00000001"
    assert len(browser.all("#rows .row")) == 7
    more.click()
    page = browser.until("return document.querySelectorAll('#rows .is-more').length === 0")
    assert page
    # Only what is on the screen are elements.
    assert 10 < len(browser.all("#rows .row")) < 100
    assert "#2" not in browser.text(CHOSEN) and "nvme+0x1c" in browser.text(CHOSEN)
    browser.one("#rows").send_keys(Keys.ARROW_LEFT)
    browser.until("return document.querySelectorAll('#rows .is-more').length === 1")
    # What stands between accesses has lines of its own.
    notes = browser.texts("#rows .is-note")
    assert ["before the answer" in notes[0], "set value 0x10000" in notes[1]] == [True, True]
    assert "(device 0x10400)" in browser.text("#rows")


def test_conditions_choose_and_are_refused_with_their_place(browser: Page, polling: Path) -> None:
    browser.open(polling)
    type_condition(browser, "register == CSTS and value & 1")
    shows(browser, "1 of 1,003")
    (row,) = browser.all("#rows .row")
    assert "0x00000001" in row.text
    assert browser.texts("#regions li") == ["nvme"]
    type_condition(browser, "value = 1")
    refuses(browser, "unknown operator = at column 7; == compares", "value = 1", "      ^")
    assert browser.one("#condition").get_attribute("aria-invalid") == "true"
    assert len(browser.all("#rows .row")) == 1  # what was shown stays
    type_condition(browser, "region is nvm")
    shows(browser, "0 of 1,003")
    refuses(browser, "no region here is called nvm; did you mean nvme?")
    type_condition(browser, "$rax == 0xffffc90000000014")
    shows(browser, "1 of 1,003")
    browser.one("#clear").click()
    shows(browser, "1,003 accesses")
    assert browser.text("#wrong") == ""


def test_the_timeline_picks_zooms_and_moves(browser: Page, polling: Path) -> None:
    browser.open(polling)
    drawn = browser.run("return vetrace.lanes.drawn")
    assert drawn == 3  # the loop is a bar
    bars = browser.run("return vetrace.lanes.sources['fold read'].data")
    assert (len(bars["left"]), bars["left"][0] < bars["right"][0]) == (1, True)
    whole = browser.run("const {start, end} = vetrace.lanes.range; return end - start")
    plot = browser.one("#plot")
    # A click on the first access, in the lane of nvme, which is the second.
    x, y = browser.run(
        "const {lanes} = vetrace, {start, end} = lanes.range;"
        "return [(lanes.accesses.time[0] / 1e9 - start) / (end - start) * lanes.width, 25]"
    )
    box = plot.size
    chain = ActionChains(browser.driver)
    chain.move_to_element_with_offset(plot, x - box["width"] / 2, y - box["height"] / 2)
    chain.pause(0.1).click().perform()
    told(browser, "nvme+0x14")
    assert "nvme+0x14 CC 0x00460001" in browser.text("#under")
    plot.send_keys("+")
    nearer = browser.run("const {start, end} = vetrace.lanes.range; return end - start")
    assert nearer < whole * 0.6
    browser.one("#within").click()
    browser.until("return document.querySelector('#condition').value.startsWith('time in ')")
    browser.one("#clear").click()
    shows(browser, "1,003 accesses")
    plot.send_keys("0")
    assert browser.run("const {start, end} = vetrace.lanes.range; return end - start") == whole


def test_the_axis_stays_where_lanes_are_scrolled(browser: Page, tmp_path: Path) -> None:
    read = sample.device("nvme", 0, 4, "read", 0)
    records: list[Record] = [sample.region("nvme")]
    records += [sample.intercept(seq, replace(read, region=f"device{seq}")) for seq in range(40)]
    path = sample.write(tmp_path / "many.vtrace", [*records, sample.end(40)])
    browser.open(report(tmp_path, path))
    top = "const top = id => document.querySelector(id).getBoundingClientRect().top;"
    before = browser.run(f"{top} return top('#ruler') - top('#lanes')")
    browser.run("document.querySelector('#lanes').scrollTop = 300")
    assert browser.run("return document.querySelector('#lanes').scrollTop") == 300
    assert browser.run(f"{top} return top('#ruler') - top('#lanes')") == before
    assert browser.run(f"{top} return top('#plot') - top('#ruler')") < 0
    browser.one("#plot").send_keys("+")
    same = "const {range, axis} = vetrace.lanes; return [range.start, axis.x_range.start]"
    browser.until(f"{same}.every((each, n, all) => each === all[0])")


def test_an_offset_is_never_cut(browser: Page, tmp_path: Path) -> None:
    site = "a_function_with_a_name_that_no_list_has_room_for_however_wide_it_may_be_shown+0x1c5e"
    record = sample.intercept(0, sample.device("nvme", 0x14, 4, "write", 1), symbol=site)
    records = [sample.region("nvme"), record, sample.end(1)]
    browser.open(report(tmp_path, sample.write(tmp_path / "long.vtrace", records)))
    assert site in browser.one("#rows .row").text
    fits = "return (e => e.scrollWidth <= e.clientWidth)(document.querySelector(arguments[0]))"
    assert browser.run(fits, "#rows .row span:nth-child(3)")
    assert not browser.run(fits, "#rows .row span:nth-child(3) bdi")


def test_everything_goes_by_keys(browser: Page, polling: Path) -> None:
    browser.open(polling)
    keys = ActionChains(browser.driver)

    def press(*pressed: str) -> None:
        keys.send_keys(*pressed).perform()

    press("/")
    assert browser.focused() == "condition"
    press("register is CSTS", Keys.ENTER)
    shows(browser, "1,000 of 1,003")
    press(Keys.ESCAPE)
    assert browser.focused() == "rows"
    press(Keys.HOME, Keys.ARROW_DOWN, Keys.ENTER)
    told(browser, "nvme+0x1c")
    press(Keys.END)
    told(browser, "0x00000001")
    press("[")
    told(browser, "0x00000000")
    browser.one("#tab-accesses").send_keys(Keys.ARROW_RIGHT)
    assert browser.focused() == "tab-phases"
    assert browser.one("#phases").is_displayed()
    assert not browser.one("#accesses").is_displayed()
    press("?")
    assert "mnemonic" in browser.text("#keys[open]")
    # It is read from its beginning.
    assert browser.run("return document.querySelector('#keys').scrollTop") == 0
    assert browser.one("#keys-title").is_displayed()
    press(Keys.ESCAPE)
    assert browser.all("#keys[open]") == []


def test_the_other_views(browser: Page, tmp_path: Path) -> None:
    browser.open(report(tmp_path, GOLDEN))
    browser.one("#tab-phases").click()
    phases = "[...document.querySelectorAll('#phases tbody tr')]"
    heights = browser.run(f"return {phases}.map(row => row.clientHeight)")
    assert heights and max(heights) < 30  # no time and no name is broken in two
    browser.one("#tab-statistics").click()
    rows = browser.texts("#statistics table:first-of-type tbody tr")
    assert any(row.startswith("nvme15") for row in rows), rows
    browser.one("#tab-registers").click()
    summary = browser.texts("#registers summary")
    assert any(text.startswith("nvme: ") and " registers accessed" in text for text in summary)
    accessed = browser.all("#registers tr:not(.none) td:first-child button")
    names = [each.get_property("textContent") for each in accessed]
    assert "CC" in names and "CMBLOC" not in names
    browser.one("#untouched").click()
    untouched = browser.texts("#registers tr.none td:first-child")
    assert "CMBLOC" in untouched and "CC" not in untouched
    assert browser.all("#registers tbody tr:not(.none)") == []
    browser.one("#untouched").click()
    browser.one("#tab-audit").click()
    assert "linux-tdx" in browser.text("#audit")
    sites = browser.texts("#audit tbody tr td:nth-child(2)")
    assert any(site.startswith("nvme_pci_reg_") for site in sites)
    # A name leads to its accesses.
    browser.one("#audit tbody td button").click()
    browser.until("return document.querySelector('#condition').value.startsWith('symbol == ')")
    assert browser.one("#accesses").is_displayed()
    assert " of " in browser.text("#shown") and not browser.text("#shown").startswith("0")


def waited() -> list[Record]:
    """Return a trace: a register that is polled for a bit, beside others, then a doorbell."""
    ms = 1_000_000
    poll = sample.device("nvme", 0x1C, 4, "read", 0)
    other = sample.device("hpet", 0xF0, 8, "read", 1)
    records: list[Record] = [sample.region("nvme"), sample.region("hpet")]
    for seq in range(0, 40, 2):
        records.append(replace(sample.intercept(seq, poll), time_ns=seq * ms))
        records.append(replace(sample.intercept(seq + 1, other), time_ns=seq * ms))
    site = 0xFFFFFFFF81234567
    entry = QueueEntry(
        kind="command", index=0, physical=0x1000, data=b"\2\0", text="OPC=read CID=5",
        fields={"OPC": 2, "CID": 5},
    )  # fmt: skip
    records += [
        WaitRecord(
            time_ns=40 * ms, seq=38, vcpu=0, rip=site, region="nvme", offset=0x1C, width=4,
            register="CSTS", head=site, loop="nvme_wait_ready+0x7f",
            awaited=[WayOut(rip=site + 5, mask=1, value=1, said="RDY=1")],
            gives_up=[WayOut(rip=site + 9, symbol="nvme_wait_ready+0xc2", said="jiffies")],
        ),
        replace(
            sample.intercept(40, sample.device("nvme", 0x1000, 4, "write", 1)), rip=site + 0x40,
            time_ns=41 * ms,
        ),
        QueueRecord(
            time_ns=41 * ms, seq=40, vcpu=0, region="nvme", queue="SQ", number=0, entries=[entry]
        ),
    ]  # fmt: skip
    return [*records, sample.end(41)]


def test_waits_doorbells_and_what_would_be_asked(browser: Page, tmp_path: Path) -> None:
    browser.open(report(tmp_path, sample.write(tmp_path / "waited.vtrace", waited())))
    browser.one("#tab-waits").click()
    (row,) = browser.texts("#waits tbody tr")
    for text in ("38.0 ms", "20", "nvme CSTS", "RDY=1", "nvme_wait_ready+0xc2 (jiffies)"):
        assert text in row
    assert "still waited" not in browser.text("#waits")  # a write has ended it
    assert "waits: nvme CSTS until RDY=1" in browser.text("#rows")
    browser.one("#waits tbody button").click()
    told(browser, "CSTS")
    assert browser.text(CHOSEN).startswith("0")
    # What a TDX guest would ask is told of each access.
    assert "r11=0x30 r12=0x4 r13=0x0 r14=0x80000" in browser.text("#detail")
    browser.one("#tab-queues").click()
    (row,) = browser.texts("#queues tbody tr")
    assert "SQ[0]" in row and "command 0 OPC=read CID=5" in row
    browser.one("#queues tbody button").click()
    told(browser, "Queue SQ[0]")
    assert browser.texts("#detail .entries td") == ["command 0", "0x1000", "OPC=read CID=5"]
    assert browser.one("#detail .entries tbody tr").get_attribute("title") == "OPC=0x2 CID=0x5"
    given = browser.text("#detail")
    assert "r13=0x1" in given and "r15=0x1" in given
    assert browser.complaints() == []


def test_two_traces_are_aligned(browser: Page, tmp_path: Path) -> None:
    other = [
        replace(record, accesses=[sample.device("nvme", 0x14, 4, "write", 0x460000)])
        if isinstance(record, Intercept) and record.seq == 0
        else record
        for record in polled(20)
    ]
    paths = (
        sample.write(tmp_path / "good.vtrace", polled(20)),
        sample.write(tmp_path / "bad.vtrace", other),
    )
    browser.open(report(tmp_path, *paths))
    assert browser.one("#difference").is_displayed()
    assert "1 region of 1 differ" in browser.text("#difference")
    (changed,) = browser.all("#difference tr.changed")
    assert "0x00460001" in changed.text and "0x00460000" in changed.text
    assert "EN 1→0" in changed.text
    # The second trace's value leads to its access, in the page of that trace.
    changed.find_elements("tag name", "button")[1].click()
    browser.until("return location.hash.includes('of=2') && document.documentElement.dataset.ready")
    told(browser, "0x00460000")
    assert browser.one("#which").get_property("value") == "2"


def test_a_link_leads_to_what_was_shown(browser: Page, polling: Path) -> None:
    browser.open(polling, "#if=region+is+hpet&at=1002")
    shows(browser, "1 of 1,003")
    told(browser, "hpet+0xf0")
    browser.driver.refresh()
    browser.until("return document.documentElement.dataset.ready")
    shows(browser, "1 of 1,003")


@pytest.mark.parametrize("size", [(1400, 900), (420, 800)], ids=["wide", "narrow"])
def test_dark_and_light_wide_and_narrow(polling: Path, size: tuple[int, int]) -> None:
    # A window of its own: one that is made smaller may hang where the machine is busy.
    with page_browser(*size) as browser:
        browser.open(polling)
        light = browser.driver.execute_script("return getComputedStyle(document.body).color")
        before = picture(browser)
        browser.one("#theme").click()
        dark = browser.driver.execute_script("return getComputedStyle(document.body).color")
        assert light != dark
        browser.until("return new Promise(done => requestAnimationFrame(() => done(true)))")
        after = picture(browser)
        # The ground of page and timeline alike: most of the pixels.
        assert brightness(before) > 180 > 80 > brightness(after)
        # Nothing is beside the screen.
        sticking_out = browser.run(
            "return [...document.querySelectorAll('header, #search, #timeline, #tabs, #list')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.id)"
        )
        assert sticking_out == []


def picture(page: Page) -> bytes:
    return page.driver.get_screenshot_as_png()


def brightness(png: bytes) -> float:
    """Return the mean brightness of a picture, from 0 to 255."""
    return float(ImageStat.Stat(Image.open(io.BytesIO(png)).convert("L")).mean[0])


HOSTILE = '</script><script>document.title = "taken"</script><img src=x onerror="alert(1)">'


def test_texts_of_a_hostile_trace_do_nothing(browser: Page, tmp_path: Path) -> None:
    bad = f"<b>{HOSTILE}<!--"
    region = RegionInfo(
        name=bad, start=0x1000, end=0x1FFF, qemu_name=bad, device=bad, traced=True, types=[bad]
    )
    access = replace(sample.device("nvme", 0x14, 4, "write", 1), region=bad, physical=0x1000)
    wide = replace(sample.device("nvme", 0x14, 4, "read", 1 << 300), offset=(1 << 64) - 1)
    records: list[Record] = [
        RegionRecord(time_ns=0, region=region),
        sample.region("nvme"),
        StackRecord(time_ns=1, id=1, frames=[StackFrame(rip=1, symbol=bad)]),
        Mark(time_ns=2, text=bad),
        Mark(time_ns=2, text=f"phase: {bad}\u202e"),
        UserRecord(time_ns=2, text=bad),
        replace(sample.intercept(0, access, text=bad, symbol=bad), stack=1, note=bad),
        replace(sample.intercept(1, wide, text=bad), before={bad: 1, "rax": 1 << 90}),
    ]
    path = sample.write(tmp_path / "<img src=x>.vtrace", [*records, sample.end(2)])
    page = report(tmp_path, path, path)
    assert page.read_text().count("<script") == page.read_text().count("</script") == 7
    browser.open(page, "#view=accesses&at=0")
    told(browser, "Plan")
    for view in ("phases", "statistics", "registers", "audit", "difference", "accesses"):
        browser.one(f"#tab-{view}").click()
    ActionChains(browser.driver).move_to_element(browser.one("#plot")).perform()
    browser.one("#rows").send_keys(Keys.END)
    told(browser, hex(1 << 300))
    type_condition(browser, f"region == '{bad}'")
    shows(browser, "1 of 2")
    assert browser.all("#views img, #views b, #lanes img, header img, #rows script") == []
    assert "taken" not in browser.driver.title
    assert HOSTILE in browser.text("#detail")
    # The character that turns a line around is told by its number.
    assert "\u202e" not in browser.text("#views") and "\\u{202e}" in browser.text("#phases")
    assert browser.complaints() == []


@pytest.mark.long
def test_what_a_view_costs_goes_by_the_screen(browser: Page, tmp_path: Path) -> None:
    records: list[Record] = [sample.region("nvme"), sample.region("hpet")]
    places = (("nvme", 0x1C), ("nvme", 0x14), ("hpet", 0xF0), ("nvme", 0x24), ("hpet", 0x0))
    for seq in range(12_000):
        name, offset = places[seq * seq // 7 % 5]
        way = "read" if seq % 3 else "write"
        made = sample.intercept(seq, sample.device(name, offset, 4, way, seq))  # type: ignore[arg-type]
        records.append(replace(made, time_ns=seq * 1000))
    path = sample.write(tmp_path / "many.vtrace.zst", [*records, sample.end(12_000)])
    browser.open(report(tmp_path, path))
    shows(browser, "12,000 accesses")
    # What is drawn and what are elements goes by the screen, not by the trace.
    assert browser.run("return vetrace.lanes.drawn") < 6000
    assert browser.run("return document.querySelectorAll('*').length") < 2000
    browser.one("#rows").send_keys(Keys.END)
    told(browser, "0x00002edf")
    type_condition(browser, "value & 0xfff == 0 and direction == read")
    chosen = sum(seq % 3 != 0 and seq & 0xFFF == 0 for seq in range(12_000))
    shows(browser, f"{chosen} of 12,000")


def test_a_page_needs_bokeh(tmp_path: Path) -> None:
    # Installed or not, this Python has none.
    script = (
        "import sys; sys.modules['bokeh'] = None;"
        "from tracer.cli import main; sys.exit(main.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "report", str(GOLDEN), "-o", str(tmp_path / "page.html")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr == (
        "vetrace: a report needs bokeh, which is not installed: pip install 'vetrace[report]'\n"
    )
