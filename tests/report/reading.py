"""A page as a reader and a browser see it; run by path (``runpy``) from the tests that need it."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr", "source"}
LOADING = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping", "cite", "manifest"}


class Page(HTMLParser):
    """Collects text, open tags and everything that would make a browser fetch or run something."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.problems, self.text, self.tags = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")
        if tag in {"td", "th", "dt", "dd"}:
            self.text.append(" ")

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def note(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            loads = name in LOADING or name.startswith("on")
            if (
                loads
                or (name.endswith("href") and not str(value).startswith("#"))
                or "url(" in re.sub(r"url\(#\w+\)", "", str(value))
            ):
                self.problems.append(f"{tag} {name}={value}")
        if tag in {"script", "iframe", "object", "embed", "base", "link", "img", "form"}:
            self.problems.append(tag)

    @property
    def words(self):
        return " ".join("".join(self.text).replace("\N{NO-BREAK SPACE}", " ").split())
