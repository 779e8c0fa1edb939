"""Tables as CSV, as Markdown and as plain text.

Text of any origin may stand in their cells: what a spreadsheet or a reader would obey is not.
"""
import csv
import io
import re

from .screen import LINES, printable

__all__ = ["csv_cell", "csv_text", "markdown_table", "markdown_text", "records_table",
           "text_table"]

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


def markdown_table(header, rows):
    """A table in Markdown, its columns aligned in the text, too.

    Parameters
    ----------
    header : list of str
        A name that begins with '<' is of a column flush left; the others are flush right.
    rows : iterable of list of str
    """
    left, (head, *lines) = _aligned(header, rows, markdown_text)
    rule = ["-" * len(cell) if flush else "-" * (len(cell) - 1) + ":"
            for cell, flush in zip(head, left)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def records_table(records):
    """`markdown_table` of dicts with the same keys; floats with three digits, all flush left."""
    return markdown_table([f"<{key.replace('_', ' ')}" for key in records[0]], [
        [f"{value:.3f}" if isinstance(value, float) else str(value) for value in each.values()]
        for each in records])


def text_table(header, rows):
    """A table in plain text; parameters as those of `markdown_table`."""
    _, lines = _aligned(header, rows, printable)
    head, *lines = ["  ".join(line) for line in lines]
    return "\n".join([head.rstrip(), "-" * len(head), *(line.rstrip() for line in lines)])


def _aligned(header, rows, cell_text):
    """Which columns are flush left, and the rows of cells, as wide as the widest of a column."""
    left = [name.startswith("<") for name in header]
    cells = [[cell_text(cell) for cell in row]
             for row in ([name.removeprefix("<") for name in header], *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells)]    # a rule has 3 dashes or more
    return left, [[cell.ljust(width) if flush else cell.rjust(width)
                   for cell, width, flush in zip(row, widths, left)] for row in cells]
