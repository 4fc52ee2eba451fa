"""search: look a fact up, in the local index or, when the user turns the network on, on the web.

An empty result is an answer ("no result"), never an error; a search that could not be done is a SearchError of its own
kind, never an empty result. What a search returns is untrusted text from outside: it is shortened, put on one line and
handed to the model as an observation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from foveate.errors import SearchError, ToolArgumentError
from foveate.tools.index import local_index
from foveate.tools.tool import Tool, ToolResult

MAX_QUERY_CHARS = 400
NO_RESULT = "no result"


class RateLimitError(SearchError):
    """The search service wants fewer requests."""


class BlockedError(SearchError):
    """The search service refused the request."""


class NoNetworkError(SearchError):
    """The search service cannot be reached."""


class SearchTimeoutError(SearchError):
    """The search service did not answer in time."""


class WebClient(Protocol):
    """The part of ddgs.DDGS that is used."""

    def text(self, query: str, *, max_results: int) -> Sequence[Mapping[str, Any]]:
        """Results with the keys title, href and body."""
        ...


def ddgs_client(timeout_s: float) -> WebClient:
    """The real client; SearchError when the package is not installed."""
    try:
        from ddgs import DDGS  # only a search of the web needs it
    except ImportError as error:
        raise SearchError("web search needs the package ddgs; pip install ddgs") from error
    client: WebClient = DDGS(timeout=max(1, round(timeout_s)))
    return client


def web_lines(query: str, limit: int, client: WebClient) -> list[str]:
    """Results from the web as "title: text (address)"; raises one of the SearchErrors above."""
    try:
        results = client.text(query, max_results=limit)
    except Exception as error:  # the client passes on whatever its engines raise
        if says_empty(error):
            return []
        raise classified(error) from error
    return [f"{row.get('title', '')}: {row.get('body', '')} ({row.get('href', '')})" for row in results][:limit]


def says_empty(error: Exception) -> bool:
    """Ddgs raises an error with these words when every engine answered and none had a result."""
    return "no results found" in str(error).lower()


def classified(error: Exception) -> SearchError:
    """The typed error for what a client raised."""
    said = f"{type(error).__name__}: {error}"[:200]
    lower = said.lower()
    kinds: tuple[tuple[type[SearchError], tuple[str, ...], str], ...] = (
        (RateLimitError, ("ratelimit", "429", "too many requests"), "wait a minute and search again"),
        (SearchTimeoutError, ("timeout", "timed out"), "search again or use the local index"),
        (BlockedError, ("403", "captcha", "forbidden", "blocked"), "use the local index"),
        (NoNetworkError, ("connect", "dns", "resolve", "unreachable", "network"), "check the network"),
    )
    for kind, signs, fix in kinds:
        if any(sign in lower for sign in signs):
            return kind(f"{said}; {fix}")
    return SearchError(f"the web search failed ({said}); use the local index")


def search_local(query: str, limit: int = 1) -> list[str]:
    """The best passages of the local index as "title: text"; empty when nothing fits."""
    return [f"{hit.fact.title}: {hit.fact.text}" for hit in local_index().search(query, limit)]


def rendered(lines: Sequence[str], max_chars: int) -> str:
    """As many whole results as fit, one a line; a first result that is too long is cut."""
    text = ""
    for line in (" ".join(line.split()) for line in lines):
        longer = f"{text}\n{line}" if text else line
        if len(longer) > max_chars:
            return text or f"{line[: max_chars - 3]}..."
        text = longer
    return text or NO_RESULT


def search_tool(
    *,
    network: bool = False,
    limit: int = 1,
    max_chars: int = 300,
    timeout_s: float = 10.0,
    client: Callable[[float], WebClient] = ddgs_client,
) -> Tool:
    """The tool "search": the local index, or with network=True the web instead.

    limit: results shown. max_chars: of all results together. client: makes the web client from a timeout.
    """

    def search(query: str) -> ToolResult:
        """Look a fact up.

        Args:
            query: A few words: the subject and what to know about it.
        """
        if not query.strip() or len(query) > MAX_QUERY_CHARS:
            raise ToolArgumentError(f"query has {len(query)} characters; give 1 to {MAX_QUERY_CHARS}")
        lines = web_lines(query, limit, client(timeout_s)) if network else search_local(query, limit)
        return ToolResult(text=rendered(lines, max_chars), details={"network": network, "results": len(lines)})

    return Tool(search)
