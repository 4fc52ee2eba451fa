"""search: look a fact up, in the local index or, when the user turns the network on, on the web.

An empty result is an answer ("no result"), never an error; a search that could not be done is a SearchError of its own
kind, never an empty result. What a search returns is untrusted text from outside: it is shortened, put on one line and
handed to the model as an observation.
"""

import threading
from collections.abc import Callable, Sequence
from queue import Empty, Queue
from typing import Any

from PIL import Image

from foveate.errors import SearchError, ToolArgumentError
from foveate.tools.index import local_index
from foveate.tools.tool import Tool, ToolResult
from foveate.tools.web import SearchTimeoutError, WebClient, ddgs_client, web_lines

MAX_QUERY_CHARS = 400
NO_RESULT = "no result"
CLIENTS_SHARE = 0.8
"""Of the time of a search: what it has found by then comes back before nobody waits any more."""


class WebSearch(Tool):
    """A search whose end nobody waits for when its time is up or the user cancels it."""

    def __init__(self, function: Callable[[str], ToolResult], timeout_s: float) -> None:
        super().__init__(function)
        self._search, self._timeout_s = function, timeout_s
        self._outcome: Queue[ToolResult | Exception] | None = None

    def call(self, arguments: dict[str, Any], images: Sequence[Image.Image]) -> ToolResult:
        """See Tool; the function runs in a thread of its own. Raises SearchTimeoutError after the time given."""
        outcome: Queue[ToolResult | Exception] = Queue()
        self._outcome = outcome

        def bring() -> None:
            try:
                outcome.put(super(WebSearch, self).call(arguments, images))
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                outcome.put(error)

        threading.Thread(target=bring, name="web-search", daemon=True).start()
        try:
            found = outcome.get(timeout=self._timeout_s)
        except Empty:
            told = f"no answer within {self._timeout_s:g} s; search again or use the local index"
            raise SearchTimeoutError(told) from None
        finally:
            self._outcome = None
        if isinstance(found, Exception):
            raise found
        return found

    def for_run(self) -> "WebSearch":
        """The same tool with a call of its own."""
        return WebSearch(self._search, self._timeout_s)

    def cancel(self) -> None:
        """Wait no longer for the search that is under way."""
        outcome = self._outcome
        if outcome is not None:
            outcome.put(SearchError("the search was cancelled"))


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

    limit: results shown. max_chars: of all results together. timeout_s: of a whole search of the web. client: makes the
    web client of one search from that time.
    """

    def search(query: str) -> ToolResult:
        """Look a fact up.

        Args:
            query: A few words: the subject and what to know about it.
        """
        if not query.strip() or len(query) > MAX_QUERY_CHARS:
            raise ToolArgumentError(f"query has {len(query)} characters; give 1 to {MAX_QUERY_CHARS}")
        lines = web_lines(query, limit, client(CLIENTS_SHARE * timeout_s)) if network else search_local(query, limit)
        return ToolResult(text=rendered(lines, max_chars), details={"network": network, "results": len(lines)})

    return WebSearch(search, timeout_s) if network else Tool(search)
