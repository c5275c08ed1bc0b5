"""URLs that may name several hosts, as `mysql://user@h1:3306,[fd00::2]/db`.

Responsible for: taking one apart. Not responsible for: what the hosts look like (the caller takes each apart as that of
a URL of its own), nor for which schemes and options there are.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit


def split(url: str) -> SplitResult:
    """The parts, with all hosts and the user in `netloc`; `hostname` and `port` mean nothing if there are several.

    `urlsplit` itself takes the hosts for one: since 3.11.12, 3.12.9 and 3.13.2 it refuses brackets anywhere but at its
    beginning and end (CVE-2025-0938). Raises ValueError.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return urlsplit(url)
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return urlsplit(f"{scheme}://host{rest[len(netloc) :]}" if netloc else url)._replace(netloc=netloc)
