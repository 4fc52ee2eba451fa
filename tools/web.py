"""Looking something up on the web: the lines of the results, or an error that says what stood in the way."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from foveate.errors import SearchError


class RateLimitError(SearchError):
    """The search service wants fewer requests."""


class BlockedError(SearchError):
    """The search service refused the request."""


class NoNetworkError(SearchError):
    """The search service cannot be reached."""


class SearchTimeoutError(SearchError):
    """The search service did not answer in time."""


class WebClient(Protocol):
    """What a search of the web is made with."""

    def text(self, query: str, *, max_results: int) -> Sequence[Mapping[str, Any]]:
        """Results with the keys title, href and body; none is an answer, whatever kept it from answering is raised."""
        ...


def ddgs_client(timeout_s: float) -> WebClient:
    """The real client, for one search; SearchError when the package is not installed."""
    try:
        from foveate.tools.engines import Engines  # only a search of the web needs ddgs
    except ImportError as error:
        raise SearchError("web search needs the package ddgs; pip install ddgs") from error
    return Engines(timeout_s)


def web_lines(query: str, limit: int, client: WebClient) -> list[str]:
    """Results from the web as "title: text (address)"; raises one of the SearchErrors above."""
    try:
        results = client.text(query, max_results=limit)
    except SearchError:
        raise
    except Exception as error:  # the client passes on whatever its engines raise
        raise classified(error) from error
    return [f"{row.get('title', '')}: {row.get('body', '')} ({row.get('href', '')})" for row in results][:limit]


def classified(error: Exception) -> SearchError:
    """The typed error for what a client raised; told by its name and first words, for behind them stands the query."""
    said = f"{type(error).__name__}: {error}"[:200]
    head = said.partition("(")[0].lower()
    if "timeout" in head or "timed out" in head:
        return SearchTimeoutError(f"{said}; search again or use the local index")
    if any(sign in head for sign in ("connect", "dns", "resolve", "unreachable", "network")):
        return NoNetworkError(f"{said}; check the network")
    return SearchError(f"the web search failed ({said}); use the local index")
