"""One HTML page that holds everything: no script, no network, pictures inside."""
import base64
import html

from common.errors import UserError
from common.files import read_bytes
from common.screen import LINES, printable

__all__ = ["make_page", "section", "picture", "table_section", "check_png"]

_MOST_PNG_BYTES = 1 << 26
_PNG = b"\x89PNG\r\n\x1a\n"

# Nothing but the page itself may be loaded, whatever a name in it tries.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { --ink: #1c2126; --soft: #5b6670; --line: #dde2e7; --head: #f4f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  "DejaVu Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 2.2rem clamp(1rem, 3vw, 2.5rem) 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--accent); }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p, li { max-width: 75ch; }
.lead, .notes { color: var(--soft); overflow-wrap: anywhere; }
.notes { font-size: .84rem; margin: .6rem 0 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; line-height: 1.35; min-width: 100%;
  font-variant-numeric: tabular-nums; }
th { background: var(--head); font-weight: 600; vertical-align: bottom; text-align: right;
  border-bottom: 1px solid #b9c2ca; min-width: 3.6em; }
td { text-align: right; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th, td { padding: .42rem .5rem; }
th.l, td.l { text-align: left; }
td.long { white-space: normal; min-width: 11em; max-width: 21em; overflow-wrap: anywhere; }
tbody tr:hover { background: #f7fafc; }
figure { margin: 0 0 1.2rem; }
img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .84rem; margin-top: .4rem; overflow-wrap: anywhere; }
.grid { display: grid; gap: 1.6rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
@media print { main { max-width: none; padding: 0; } .scroll { overflow: visible; } }
"""


def escape(text):
    """Text of any origin as HTML that shows it."""
    return html.escape(printable(text, LINES))


def check_png(path):
    """The bytes of a PNG file.

    Raises
    ------
    UserError
        If it cannot be read or is something else.
    """
    content = read_bytes(path, _MOST_PNG_BYTES, "--gallery")
    if not content.startswith(_PNG):
        raise UserError(f"{path} is no PNG picture")
    return content


def picture(content, alternative, caption="", density=1.0):
    """A PNG inside the page; `density` of its pixels are shown as one, at most."""
    data = base64.b64encode(content).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    # The width is the first field of a PNG's first chunk.
    width = int(int.from_bytes(content[16:20], "big") / density)
    return (f'<figure><img width="{width}" alt="{escape(alternative)}" '
            f'src="data:image/png;base64,{data}">{below}</figure>')


def table_section(table):
    """A `table.Table` under its title."""
    left = [name.startswith("<") for name in table.header]
    head = "".join(f'<th scope="col"{_class(flush, "")}>{_cell(name.lstrip("<"))}</th>'
                   for name, flush in zip(table.header, left))
    body = "\n".join("<tr>" + "".join(f"<td{_class(flush, cell)}>{_cell(cell)}</td>"
                                      for cell, flush in zip(row, left)) + "</tr>"
                     for row in table.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return section(table.title, f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
                                f'<tbody>\n{body}\n</tbody></table></div>'
                                f'<ul class="notes">{notes}</ul>')


def _class(flush, cell):
    """Text is flush left; what is long may be broken into lines."""
    return "" if not flush else ' class="l long"' if len(cell) > 24 else ' class="l"'


def _cell(text):
    """Escaped, and without breaks inside '84.93 ± 0.05', '0: 84.93' and 'accuracy %'."""
    text = escape(text)
    for plain, kept in ((": ", ":\u00a0"), (" %", "\u00a0%"), (" ± ", "\u00a0±\u00a0")):
        text = text.replace(plain, kept)
    return text


def section(title, content, lead=""):
    """A titled part; `content` is HTML, the rest text."""
    below = f'<p class="lead">{escape(lead)}</p>\n' if lead else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{below}{content}\n</section>"


def make_page(title, lead, sections):
    """The whole page.

    Parameters
    ----------
    title, lead : str
        Text.
    sections : list of str
        HTML, from `section` and `table_section`.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
{chr(10).join(sections)}
</main>
</body>
</html>
"""
