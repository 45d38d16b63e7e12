"""Parsed HTML pages."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "input", "br", "wbr"}


class Page(HTMLParser):
    """A parsed page: its tags with attributes, its text, the names in its table. AssertionError if tags cross."""

    def __init__(self, html: str) -> None:
        """Parse `html` and assert that every tag is closed."""
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self.styles = "", "", ""
        self.names: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag. A cell and a row end where the next one begins."""
        while tag in {"td", "th", "tr"} and self.open[-1] in ({"td", "th", "tr"} if tag == "tr" else {"td", "th"}):
            self.open.pop()
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "th" and ("scope", "row") in attrs:
            self.names.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag that closes itself, as in SVG."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost open tag, and the last cell and row of a table."""
        while tag in {"tbody", "tr"} and self.open[-1] in {"td", "th", "tr"} - {tag}:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Add text to the page, to its scripts or to its styles."""
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts += data
        elif inside == "style":
            self.styles += data
        else:
            self.text += data
            if "th" in self.open and "tbody" in self.open:
                self.names[-1] += data

    def count(self, tag: str, **attributes: str) -> int:
        """Count the tags with these attributes (`class_` for class)."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return sum(name == tag and wanted.items() <= attrs.items() for name, attrs in self.tags)
