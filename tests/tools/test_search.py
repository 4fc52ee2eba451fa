"""The search tool: short text for the model; nothing found is a result, a search that failed is one of six errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from foveate.errors import SearchError
from foveate.tools import Tool, ToolCall, ToolResult, perform, search_tool
from foveate.tools.search import (
    BlockedError,
    NoNetworkError,
    RateLimitError,
    SearchTimeoutError,
    rendered,
    web_lines,
)


@dataclass
class Web:
    """A client of the web as ddgs is one: gives rows or raises."""

    rows: Sequence[Mapping[str, Any]] = ()
    error: Exception | None = None

    def text(self, query: str, *, max_results: int) -> Sequence[Mapping[str, Any]]:
        if self.error:
            raise self.error
        return self.rows[:max_results]


def ask(tool: Tool, query: object) -> ToolResult:
    return perform([tool], ToolCall(id="1", name="search", arguments={"query": query}), [])


def test_the_best_passage_is_shown() -> None:
    assert ask(search_tool(), "capital of Norway").text == "Norway: capital: The capital of Norway is Oslo."
    assert len(ask(search_tool(limit=3), "capital of Norway").text.splitlines()) == 3


def test_nothing_found_is_no_failure() -> None:
    assert ask(search_tool(), "xyzzy") == ToolResult(text="no result", details={"network": False, "results": 0})


@pytest.mark.parametrize("query", ["", "  ", "x" * 401, 3, None])
def test_what_is_no_query_is_refused(query: object) -> None:
    result = ask(search_tool(), query)
    assert result.failed
    assert "query" in result.text


def test_results_are_short_and_on_one_line_each() -> None:
    assert rendered(["a\n\tb", "c"], 300) == "a b\nc"
    assert rendered(["x" * 20, "y" * 20], 30) == "x" * 20
    assert rendered(["x" * 50], 30) == "x" * 27 + "..."
    assert rendered([], 30) == "no result"


def test_the_web_is_asked_only_when_it_is_allowed() -> None:
    row = {"title": "Oslo", "body": "Capital of Norway", "href": "https://example.org"}
    made: list[float] = []

    def client(timeout_s: float) -> Web:
        made.append(timeout_s)
        return Web(rows=[row])

    assert "Norway" in ask(search_tool(client=client), "capital of Norway").text
    assert made == []
    web = search_tool(network=True, timeout_s=3, client=client)
    assert ask(web, "Oslo").text == "Oslo: Capital of Norway (https://example.org)"
    assert made == [3]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("202 Ratelimit"), RateLimitError),
        (RuntimeError("429 Too Many Requests"), RateLimitError),
        (RuntimeError("403 Forbidden"), BlockedError),
        (TimeoutError("operation timed out"), SearchTimeoutError),
        (OSError("error trying to connect: dns error"), NoNetworkError),
        (ValueError("unexpected page"), SearchError),
    ],
)
def test_each_failure_has_its_type(error: Exception, kind: type[SearchError]) -> None:
    with pytest.raises(SearchError, match="; ") as caught:
        web_lines("x", 3, Web(error=error))
    assert type(caught.value) is kind
    assert ask(search_tool(network=True, client=lambda _: Web(error=error)), "x").failed


def test_an_empty_web_is_no_failure() -> None:
    assert web_lines("x", 3, Web(error=RuntimeError("No results found."))) == []
    assert web_lines("x", 3, Web()) == []
