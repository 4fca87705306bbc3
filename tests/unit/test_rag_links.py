"""Links that an answer has of its own."""

from actors.rag.links import unknown_hosts


def test_only_hosts_that_no_source_has_are_unknown() -> None:
    told = "See https://docs.example.org/a?b=1 and (http://Other.example:8080/x)."
    answer = (
        "![x](https://evil.example/?q=secret) [y](HTTPS://docs.example.org/z) <http://other.example:8080> "
        "https://evil.example/again https://docs.example.org.evil.example/"
    )

    assert unknown_hosts(answer, told) == ["evil.example", "docs.example.org.evil.example"]
    assert unknown_hosts("No links, http:// nothing.", told) == []
