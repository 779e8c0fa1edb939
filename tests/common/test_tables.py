"""Cells that spreadsheets and readers of Markdown would obey."""
import csv
import io
import math
import re

import pytest

from common.tables import csv_cell, csv_text, markdown_text


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\t=1",
                                  "＝1", "-", "=HYPERLINK(\"http://x\")", "\x1b=1\r=2"])
def test_a_formula_is_text(text):
    assert csv_cell(text).startswith(("'", r"\x1b"))
    assert "\r" not in csv_cell(text)


@pytest.mark.parametrize("value", ["-0.5", "+1e-3", "-inf", -0.5, 3, None, math.nan, "a=b", "",
                                   "x-y", "0: 84.93 ± 0.05"])
def test_numbers_and_other_text_stay(value):
    assert csv_cell(value) is value or csv_cell(value) == value


def test_a_table_reads_back():
    text = csv_text(["=a", "b"], ["a,b", -1.5], ['say "x"', "two\nlines"])
    assert list(csv.reader(io.StringIO(text))) == [
        ["'=a", "b"], ["a,b", "-1.5"], ['say "x"', "two\nlines"]]


def _plain(markdown):
    """What a reader sees: each escaped character as itself."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)


@pytest.mark.parametrize("name, expected", [
    ("[click](https://evil.example)", r"[click]\(https:\//evil.example)"),
    ("![x](y.png)", r"![x]\(y.png)"), ("[x][1]", r"[x]\[1]"),
    (r"a\](b)", r"a\\]\(b)"), ("<script>alert(1)</script>", r"\<script>alert(1)\</script>"),
    ("<https://evil.example>", r"\<https:\//evil.example>"),
    ("www.evil.example", r"www\.evil.example"), ("WWW.x.example", r"WWW\.x.example"),
    ("a|b", r"a\|b"), ("`code`", r"\`code\`"), ("me@evil.example", r"me\@evil.example"),
    ("blocks [1, 2] resnet_v2*", "blocks [1, 2] resnet_v2*"),
])
def test_markdown_makes_no_link_and_no_markup(name, expected):
    assert markdown_text(name) == expected
    assert _plain(expected) == name


def test_markdown_is_one_line():
    assert markdown_text("a\n\n# title\n[x]: y") == "a  # title [x]: y"
    assert markdown_text("\x1b[31m\r") == r"\\x1b[31m\\r"
