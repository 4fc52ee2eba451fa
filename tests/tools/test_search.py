"""The search tool: short text for the model; nothing found is a result, a search that failed is one of six errors.

The web is asked through ddgs itself, whose engines' HTTP clients are fakes.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from ddgs.ddgs import DDGS
from ddgs.exceptions import DDGSException, TimeoutException

from foveate.errors import SearchError
from foveate.tools import Tool, ToolCall, ToolResult, perform, search_tool
from foveate.tools.engines import Engines
from foveate.tools.search import rendered
from foveate.tools.web import BlockedError, NoNetworkError, RateLimitError, SearchTimeoutError, web_lines

EMPTY = {"wikipedia": '["x", [], [], []]', "grokipedia": '{"results": []}'}
DNS = "DNSError: DNSError('error sending request for url (https://search.brave.com/search?q=429+timeout) > DNS error')"


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
    assert made == [pytest.approx(0.8 * 3)]


class Http:
    """The HTTP client of an engine of ddgs: says one thing to everybody, or another to encyclopaedias, or raises."""

    def __init__(self, own: Any, says: int | Exception, to_encyclopaedias: int | None = None) -> None:
        self.client = own.client
        self._says = says
        self._to_encyclopaedias = says if to_encyclopaedias is None else to_encyclopaedias

    def request(self, method: str, url: str, **_: Any) -> SimpleNamespace:
        name = next((name for name in EMPTY if name in url), None)
        says = self._to_encyclopaedias if name else self._says
        if isinstance(says, Exception):
            raise says
        return SimpleNamespace(status_code=says, text=EMPTY.get(name or "", "<html><p>none</p></html>"))


def engines(*says: Any, timeout_s: float = 10.0) -> Engines:
    return Engines(timeout_s, http=lambda own: Http(own, *says))


@pytest.mark.parametrize(
    ("says", "kind", "told"),
    [
        ([429], RateLimitError, "HTTP 429"),
        ([202], RateLimitError, "HTTP 202"),
        ([403], BlockedError, "HTTP 403"),
        ([503], BlockedError, "HTTP 503"),
        ([403, 200], BlockedError, "HTTP 403"),
        ([TimeoutException("operation timed out")], SearchTimeoutError, "timed out"),
        ([DDGSException(DNS)], NoNetworkError, "check the network"),
        ([DDGSException(DNS), 200], NoNetworkError, "check the network"),
        ([DDGSException("DecodeError: DecodeError('a page about networks')")], SearchError, "web search failed"),
    ],
)
def test_each_failure_has_its_type(says: list[Any], kind: type[SearchError], told: str) -> None:
    with pytest.raises(SearchError, match=told) as caught:
        web_lines("x", 3, engines(*says))
    assert type(caught.value) is kind
    assert ask(search_tool(network=True, client=lambda _: engines(*says)), "x").failed


def test_an_empty_web_is_no_failure() -> None:
    assert web_lines("x", 3, engines(200)) == []
    assert ask(search_tool(network=True, client=lambda _: engines(200)), "x").text == "no result"


def test_a_ddgs_that_cannot_be_watched_has_an_error_rather_than_no_result() -> None:
    class Elsewhere(Engines):
        """As with a version of ddgs that makes its engines elsewhere."""

        def _get_engines(self, category: str, backend: str) -> list[Any]:
            made = DDGS._get_engines(self, category, backend)
            for engine in made:
                engine.http_client = Http(engine.http_client, 200)
            return made

    with pytest.raises(SearchError, match="no search engine gave an answer"):
        web_lines("x", 3, Elsewhere(10.0))


def test_no_request_goes_out_after_the_time_is_up() -> None:
    with pytest.raises(SearchTimeoutError):
        web_lines("x", 3, engines(AssertionError("a request went out"), timeout_s=0.0))


def test_what_an_encyclopaedia_finds_is_told_while_the_engines_refuse() -> None:
    class Knows(Http):
        def request(self, method: str, url: str, **_: Any) -> SimpleNamespace:
            if "opensearch" in url:
                return SimpleNamespace(status_code=200, text='["x", ["Oslo"], [""], ["https://example.org"]]')
            if "wikipedia" in url:
                page = '{"query": {"pages": {"1": {"extract": "Oslo is the capital of Norway."}}}}'
                return SimpleNamespace(status_code=200, text=page)
            return super().request(method, url)

    found = web_lines("capital of Norway", 1, Engines(10.0, http=lambda own: Knows(own, 403)))
    assert found == ["Oslo: Oslo is the capital of Norway. (https://example.org)"]


@dataclass
class Silent:
    """A web that says nothing until it is let go."""

    asked: threading.Event
    released: threading.Event

    def text(self, query: str, *, max_results: int) -> Sequence[Mapping[str, Any]]:
        self.asked.set()
        self.released.wait(20)
        return []


@pytest.fixture
def silent() -> Iterator[Silent]:
    web = Silent(threading.Event(), threading.Event())
    yield web
    web.released.set()


def test_a_search_ends_with_its_time(silent: Silent) -> None:
    result = ask(search_tool(network=True, timeout_s=0.05, client=lambda _: silent), "x")
    assert (result.failed, result.text) == (
        True,
        "search: no answer within 0.05 s; search again or use the local index",
    )


def test_a_cancelled_search_ends_at_once_and_that_of_another_run_does_not(silent: Silent) -> None:
    tool = search_tool(network=True, timeout_s=20, client=lambda _: silent)
    running, other = tool.for_run(), tool.for_run()
    results: list[ToolResult] = []
    caller = threading.Thread(target=lambda: results.append(ask(running, "x")))
    caller.start()
    assert silent.asked.wait(10)
    other.cancel()
    caller.join(0.05)
    assert caller.is_alive()
    running.cancel()
    caller.join(10)
    assert [result.text for result in results] == ["search: the search was cancelled"]
    running.cancel()
    silent.released.set()
    assert ask(running, "x").text == "no result"
