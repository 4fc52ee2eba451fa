"""ddgs, watched: it says why it has found nothing.

ddgs asks several engines, drops every page that is not an HTTP 200 and says "No results found." then, so that an engine
which refuses looks like one that knows nothing. `Engines` watches the HTTP clients of the engines: without results,
an engine must have given a page, or the search has failed.

It reaches into ddgs at one place, `_get_engines`. A ddgs that has it no more is not seen to get a page: a search
without results is an error then, and never "no result".
"""

import time
from collections.abc import Callable, Collection
from typing import Any

from ddgs.ddgs import DDGS  # ddgs.DDGS is a stand-in that cannot be derived from
from ddgs.exceptions import DDGSException

from foveate.errors import SearchError
from foveate.tools.web import BlockedError, RateLimitError, SearchTimeoutError

TOO_MANY = frozenset({202, 429})
"""202 is how DuckDuckGo wants fewer requests."""
ENCYCLOPAEDIAS = frozenset({"wikipedia", "grokipedia"})
"""They know few things: a page without results from one of them says nothing about the web."""


class Engines(DDGS):
    """Satisfies foveate.tools.web.WebClient for one search."""

    def __init__(self, timeout_s: float, http: Callable[[Any], Any] = lambda own: own) -> None:
        """timeout_s: of the whole search; one request may take half of it, so that other engines get their turn.

        http: makes an engine's HTTP client from its own one.
        """
        super().__init__(timeout=max(1, round(timeout_s / 2)))
        self._http = http
        self._deadline = time.monotonic() + timeout_s
        self._statuses: dict[str, int] = {}

    def text(self, query: str, **options: Any) -> list[dict[str, Any]]:
        """Results with the keys title, href and body; none when the engines' pages have none. For options see ddgs.

        Raises SearchError when no engine gave a page, and DDGSException for what ddgs tells by itself.
        """
        try:
            return super().text(query, **options)
        except DDGSException as error:
            statuses = {status for name, status in self._statuses.items() if name not in ENCYCLOPAEDIAS}
            if 200 not in statuses and statuses:
                raise refused(statuses) from error
            if "no results found" not in str(error).lower():
                raise
            if not statuses:
                raise SearchError("no search engine gave an answer; use the local index") from error
            return []

    def _get_engines(self, category: str, backend: str) -> list[Any]:
        engines: list[Any] = super()._get_engines(category, backend)
        for engine in engines:
            engine.http_client = Watched(self._http(engine.http_client), engine.name, self._statuses, self._deadline)
        return engines


class Watched:
    """An engine's HTTP client that notes the status of its last answer, and asks nothing after the deadline."""

    def __init__(self, http: Any, engine: str, statuses: dict[str, int], deadline: float) -> None:
        self._http, self._engine, self._statuses, self._deadline = http, engine, statuses, deadline

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """The HTTP client's response. Raises SearchTimeoutError after the deadline, and whatever the client raises."""
        if time.monotonic() >= self._deadline:
            raise SearchTimeoutError("the search timed out; search again or use the local index")
        response = self._http.request(*args, **kwargs)
        self._statuses[self._engine] = response.status_code
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)


def refused(statuses: Collection[int]) -> SearchError:
    """The error for engines none of which gave a page."""
    shown = ", ".join(map(str, sorted(statuses)))
    if TOO_MANY.isdisjoint(statuses):
        return BlockedError(f"the search engines refuse the request (HTTP {shown}); use the local index")
    return RateLimitError(f"the search engines want fewer requests (HTTP {shown}); wait a minute and search again")
