"""Text of any origin in the cells of tables: what a spreadsheet or a reader would obey is not."""
import csv
import io
import re

from .screen import LINES, printable

__all__ = ["csv_cell", "csv_text", "markdown_text"]

# What begins a formula in spreadsheets, some of which know the wide forms, too.
_FORMULA = tuple("=+-@＝＋－＠")
_MARKUP = re.compile(r"[\\|<`@]|(?<=\])[(\[]|(?<=:)//|(?<=www)\.", re.IGNORECASE)


def csv_cell(value):
    """A value as a cell of CSV. Text that a spreadsheet would take for a formula gets a ' before
    it, as spreadsheets write it themselves; numbers stay."""
    if not isinstance(value, str):
        return value
    value = printable(value, LINES)
    if not value.lstrip().startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def csv_text(*rows):
    """CSV of rows of values, of which the first may be a header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def markdown_text(text):
    """Text for one line of Markdown that makes no link, markup, HTML or cell of its own."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(printable(text, LINES).split("\n")))
