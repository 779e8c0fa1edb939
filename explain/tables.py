"""Tables as Markdown, for people, and as CSV, for programs."""
from common.files import write_text
from common.tables import csv_text, markdown_text

__all__ = ["markdown", "write_csv"]


def _cell(value):
    return f"{value:.3f}" if isinstance(value, float) else markdown_text(str(value))


def markdown(rows):
    """A Markdown table of dicts with the same keys; floats with three digits."""
    lines = [[key.replace("_", " ") for key in rows[0]],
             *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    texts = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
             for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def write_csv(path, rows):
    """Write dicts with the same keys as CSV, atomically. Floats keep every bit."""
    write_text(path, csv_text(rows[0], *(row.values() for row in rows)))
