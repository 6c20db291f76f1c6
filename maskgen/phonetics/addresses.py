"""Converts addresses and names of computers to words: URLs, e-mail, handles, hashtags, colours, file names and paths."""

import re

from maskgen.phonetics.numbers import digits
from maskgen.phonetics.rules import Rules, apply_rules

TOP_LEVEL = {
    **{"com": "com", "org": "org", "net": "net", "gov": "gov", "dev": "dev", "app": "app", "info": "info", "biz": "biz", "mil": "mil"},
    **{"edu": "EDU", "io": "IO", "ai": "AI", "uk": "UK", "de": "DE", "fr": "FR", "eu": "EU", "ca": "CA", "au": "AU", "jp": "JP"},
    **{"ch": "CH", "nl": "NL", "tv": "TV", "xyz": "XYZ"},
}
"""Ends of host names and how they are said. Ends that are also English words, such as "it", need "www." or "https://"."""
EXTENSIONS = {
    **{"pdf": "PDF", "txt": "TXT", "csv": "CSV", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "svg": "SVG", "html": "HTML", "css": "CSS"},
    **{"xml": "XML", "py": "py", "js": "JS", "ts": "TS", "json": "jason", "yaml": "yamel", "yml": "YML", "md": "MD", "sh": "SH"},
    **{"exe": "EXE", "mp3": "MP three", "mp4": "MP four", "flac": "flack", "ogg": "OGG", "wav": "wave", "gz": "GZ", "tar": "tar"},
    **{"zip": "zip", "gif": "gif", "doc": "doc", "docx": "DOCX", "xls": "XLS", "xlsx": "XLSX", "ppt": "PPT", "pptx": "PPTX", "ini": "INI"},
    **{"cpp": "CPP", "toml": "TOML", "log": "log", "bat": "bat", "dll": "DLL", "iso": "ISO", "apk": "APK", "bin": "bin"},
}
"""Ends of file names and how they are said."""
MARKS = {
    **{".": "dot", "/": "slash", "\\": "backslash", "@": "at", "-": "dash", "_": "underscore", ":": "colon", "?": "question mark"},
    **{"=": "equals", "&": "and", "#": "hash", "%": "percent", "~": "tilde", "+": "plus"},
}
"""Characters of an address and how they are said; the others are left to the normaliser."""

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_TAIL = r"(?:[/?#][^\s<>\"“”‘’()]*)?(?<![.,;:!?'*])"
_PORT = r"(?::\d{2,5})?"
_HOST = rf"(?:[A-Za-z0-9](?:[\w-]{{0,60}}[A-Za-z0-9])?\.){{1,6}}(?:{'|'.join(sorted(TOP_LEVEL, key=len, reverse=True))})(?![\w-]|\.\w)"
_FILE = rf"\w(?:[\w-]{{0,60}}\.){{1,6}}(?:{'|'.join(sorted(EXTENSIONS, key=len, reverse=True))})\b(?!\.?\w)"


def speak_addresses(text: str) -> str:
    """The text with addresses in words: "john.doe@example.com" becomes "john dot doe at example dot com".

    The scheme of a URL ("https://") is not said.
    """
    return apply_rules(text, RULES)


def _spelled(address: str) -> str:
    """Words of an address: its parts and the marks between them; the parts after dots are said as people say them."""
    said = []
    parts = re.split(r"(\W|_)", address)
    for place, part in enumerate(parts):
        after_dot = place > 1 and parts[place - 1] == "."
        known = (EXTENSIONS | TOP_LEVEL).get(part) if after_dot else "WWW" if part == "www" else None
        said.append(known or MARKS.get(part) or _words(part))
    return " ".join(filter(None, said))


def _words(name: str) -> str:
    """Words of a name written together: "MachineLearning2" becomes "Machine Learning 2". Short parts without a vowel are spelled."""
    parts = _HUMP.split(name.replace("_", " underscore "))
    return " ".join(part.upper() if 1 < len(part) < 6 and not re.search("[aeiouyAEIOUY]", part) else part for part in parts).strip()


def _colour(found: re.Match[str]) -> str:
    """The characters of a hexadecimal colour, one by one: "hash F F eight eight zero zero"."""
    return "hash " + " ".join(digits(mark) if mark.isdecimal() else mark.upper() for mark in found[1])


def _ip_address(found: re.Match[str]) -> str:
    """Digits one by one with "dot" between the groups and "colon" before a port."""
    return " ".join(MARKS.get(part) or digits(part) for part in re.split(r"([.:])", found[0]))


RULES: Rules = (
    (re.compile(rf"\b(?:https?|ftp|file):///?([^\s<>\"“”‘’()/:]+{_PORT}{_TAIL})"), lambda found: _spelled(found[1])),
    (re.compile(r"\b(?:mailto:)?([\w.+-]{0,60}[\w+-]@(?:[\w-]{1,60}\.){1,6}[A-Za-z]{2,})\b"), lambda found: _spelled(found[1])),
    (re.compile(rf"\b(?:www\.(?:[\w-]{{1,60}}\.){{0,6}}[\w-]{{1,60}}|(?<![\w.-]){_HOST}){_PORT}{_TAIL}"), lambda found: _spelled(found[0])),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{2,5})?(?!\w|\.\d)"), _ip_address),
    (re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:(?=\\))?(?:[~.]{0,2}[/\\][\w.-]*\w){2,}[/\\]?(?![\w/\\])"), lambda found: _spelled(found[0])),
    (re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:\\|~/|\.{1,2}/)[\w-]+(?:\.\w+)*"), lambda found: _spelled(found[0])),
    (re.compile(rf"(?<![\w./\\-]){_FILE}"), lambda found: _spelled(found[0])),
    (re.compile(r"(?<![\w&])#(?=\d*[A-Fa-f]|0)(?=[A-Fa-f]*\d|[A-F]{6}\b)([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6}|[0-9A-Fa-f]{8})\b"), _colour),
    (re.compile(r"(?<![\w&/])#((?=\w*[A-Za-z])\w+)"), lambda found: f"hashtag {_words(found[1])}"),
    (re.compile(r"(?<![\w.])@((?=\w*[A-Za-z])\w+)"), lambda found: f"at {_words(found[1])}"),
)
