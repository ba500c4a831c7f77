"""Every deadline of a test can be made longer, by one environment variable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.patience import VARIABLE, patience

ROOT = Path(__file__).parents[3]
# Functions that give up after some seconds, and which of their arguments says so.
GIVE_UP = {"wait_for": 1, "timeout": 0, "settimeout": 0, "wait": 0, "join": 0, "communicate": 1}


def deadlines(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what stands for a number of seconds after which something is given up."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and "DEADLINE" in map(ast.unparse, node.targets):
            yield node.value
        if not isinstance(node, ast.Call):
            continue
        yield from (word.value for word in node.keywords if word.arg == "timeout")
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ""
        place = GIVE_UP.get(name)
        if place is not None and len(node.args) > place:
            yield node.args[place]


def is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("asyncio.wait_for(task, 20)", True),
        ("asyncio.timeout(3)", True),
        ("subprocess.run(words, timeout=1.5)", True),
        ("process.wait(10)", True),
        ("DEADLINE = 240", True),
        ("DEADLINE = patience(240)", False),
        ("asyncio.wait_for(task, patience(20))", False),
        ("subprocess.run(words, timeout=DEADLINE)", False),
        ("pexpect.spawn(words, timeout=None)", False),
        ("terminal.wait_for('text')", False),
        ("', '.join(words)", False),
    ],
)
def test_a_number_of_seconds_is_found(text: str, found: bool) -> None:
    assert any(map(is_number, deadlines(ast.parse(text)))) == found


def test_no_deadline_is_a_number() -> None:
    files = [*(ROOT / "tests").rglob("*.py"), ROOT / "scripts" / "terminal.py"]
    fixed = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in deadlines(ast.parse(path.read_text()))
        if is_number(node)
    ]
    assert fixed == [], "give scripts.patience.patience(SECONDS)"


def test_a_deadline_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert patience(20) == 20
    monkeypatch.setenv(VARIABLE, "2.5")
    assert patience(20) == 50
    for wrong in ("0", "-1", "nan", "ten"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ValueError):
            patience(20)
