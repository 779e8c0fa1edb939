from html.parser import HTMLParser

import pytest

from common.errors import UserError
from reporting.page import check_png, make_page, picture, section, table_section
from reporting.table import Table

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;"


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def _parse(page):
    parsed = _Tags()
    parsed.feed(page)
    return parsed


def test_hostile_names_stay_text():
    made = Table(HOSTILE, [HOSTILE, "<" + HOSTILE], [[HOSTILE, HOSTILE]], [HOSTILE])
    parsed = _parse(make_page(HOSTILE, HOSTILE, [
        table_section(made), section(HOSTILE, picture(b"", HOSTILE, HOSTILE), HOSTILE)]))
    assert "script" not in parsed.tags
    assert parsed.tags.count("img") == 1
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert parsed.text.count(HOSTILE) >= 7


def test_nothing_comes_from_elsewhere():
    page = make_page("T", "", [section("A", picture(b"123", "a picture"))])
    parsed = _parse(page)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    sources = [value for name, value in parsed.attributes if name in ("src", "href")]
    assert sources == ["data:image/png;base64,MTIz"]
    assert "http" not in page.replace("http-equiv", "") and "url(" not in page
    assert "default-src 'none'" in page


def test_only_png_pictures(tmp_path):
    with pytest.raises(UserError, match="cannot read --gallery"):
        check_png(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("<svg onload=alert(1)>")
    with pytest.raises(UserError, match="is no PNG picture"):
        check_png(tmp_path / "text.png")
