"""Links in an answer that no source has: what a document has talked a model into may carry words of the user away."""

import re

_HOST = re.compile(r"https?://([^\s/?#()<>\[\]\"'\\]+)", re.IGNORECASE)


def unknown_hosts(answer: str, told: str) -> list[str]:
    """Return the hosts of the links in `answer` that no link in `told` has, in their order."""
    known = {host.lower() for host in _HOST.findall(told)}
    return [host for host in dict.fromkeys(map(str.lower, _HOST.findall(answer))) if host not in known]
