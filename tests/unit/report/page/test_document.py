"""The page as a file: what stands in it, and what cannot."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

from tracer.report.page.document import SCRIPTS, document

BAD = "</script><script>alert(1)</script><!-- \udc80 \u2028"


def page(name: str, plotting: list[str] | None = None) -> str:
    contents: dict[str, Any] = {"trace": {"name": name}, "text": BAD}
    return "".join(document([contents], None, plotting or ["draw()"]))


def test_no_text_ends_the_element_that_it_is_in() -> None:
    text = page(BAD)
    assert len(re.findall("<script", text)) == len(re.findall("</script", text)) == 3
    assert "alert(" not in re.sub(r"<script type=[^>]*>.*?</script>|<title>.*?</title>", "", text)
    (title,) = re.findall("<title>(.*?)</title>", text)
    assert title.startswith("&lt;/script&gt;&lt;script&gt;")
    (data,) = re.findall(r'<script type="application/json" id="trace-1">(.*?)</script>', text)
    # What is no text in UTF-8 is escaped, and all else as it was.
    assert json.loads(data)["text"] == BAD.replace("\udc80", "\\udc80")


def test_the_policy_lets_these_scripts_run_and_no_others() -> None:
    text = page("run.vtrace", ["draw('</script>')", "more()"])
    scripts = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 3
    assert scripts[0] == "draw('<\\/script>')"
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', text)
    assert "default-src 'none'" in policy
    for script in scripts:
        digest = b64encode(sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe-eval" not in policy
    (allowed,) = re.findall("script-src (.*?);", policy)
    assert len(allowed.split()) == 3


def test_nothing_is_fetched_and_nothing_left_out() -> None:
    text = page("run.vtrace")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "main().catch" in text and len(SCRIPTS) == len(set(SCRIPTS))
