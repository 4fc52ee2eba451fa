"""Any chat model of LangChain as a reasoner, and through it every endpoint that speaks OpenAI's protocol.

The conversation goes out as text and pictures alone: calls and their results stand in tags, as the agent's system
message explains, so a model needs no interface of its own for tools. Ids are not shown, and a turn that was written
goes back as its text: transcripts are not token-exact.
"""

import json
import logging
import math
import operator
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from contextvars import copy_context
from io import BytesIO
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from PIL import Image

from foveate.errors import FoveateError, InputError, ModelError, named_line
from foveate.models.chat import ROLES, Picture, SizedPicture, checked_role, content_of, rgb_of
from foveate.models.reasoner import CHARS_PER_TOKEN, OTHERS_TURN, RESPONSE, Dialect, Message, Sample, StopReason
from foveate.models.turn_text import Telling, inert

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessageChunk

_log = logging.getLogger(__name__)

LONG_SIDE_PX = 1568
"""Of a picture that is sent: providers shrink what is larger, in ways of their own."""
TOKEN_SIDE_PX = 28
"""Of the square that a token stands for, nearly, in the models of most providers."""
HEED_S = 0.1
"""How long a call to stop may go unheard while nothing comes."""
RUNAWAY = 4
"""How many times as long as asked for, by CHARS_PER_TOKEN, a turn becomes of a server that did not heed it."""
TOO_LONG = {"length", "max_tokens", "max_output_tokens", "MAX_TOKENS"}
"""How providers say that a turn was cut at its longest."""
DECLINED = {"content_filter", "refusal", "SAFETY", "PROHIBITED_CONTENT", "RECITATION", "BLOCKLIST", "SPII"}
"""How they say that they broke it off, for what it was about."""
REFUSED = {400, 413, 422}
"""Statuses of HTTP for a conversation that a server does not take: too long, a picture that it cannot read."""
_NO_ROOM = re.compile(r"context.{0,12}(?:length|window|size)|max_model_len", re.IGNORECASE)
"""How they say that a conversation and the turn that it is asked for are too long together."""
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_QUOTED = re.compile(r"[<◁](?=/?(?:think|tool_call|tool_response|grounding|code|answer)\b|\|)")
"""Where a thought that came apart from the text quotes a tag."""
LONGEST_TAG = len("</tool_response>")
_THOUGHT = re.compile(
    r"\A(?:(?!<think>|◁think▷).)*(?:</think>|◁/think▷)|(?:<think>|◁think▷).*?(?:</think>|◁/think▷)", re.DOTALL
)


class ChatModelReasoner:
    """See foveate.models.reasoner.Reasoner."""

    def __init__(
        self, model: "BaseChatModel", *, name: str = "", hands: Collection[str] = (), totals: bool = False
    ) -> None:
        """`hands` names what a call hands to the model of max_tokens, temperature and seed.

        All else is as the model was made: providers call these by names of their own, and refuse some. A turn whose
        model was not told how long it may become is cut after about as many tokens, any other one at RUNAWAY times
        that. `totals`: whether each piece counts the tokens of all up to it, as some servers do, and not its own.
        """
        self.model: Any = model
        self.totals = totals
        self.hands = frozenset(hands)
        self.name = name or _name_of(model)
        self.dialect = Dialect()

    def image_tokens(self, width_px: int, height_px: int) -> int:
        """About as many as providers count; they do not tell before."""
        width, height = self.seen_size(width_px, height_px)
        return math.ceil(width / TOKEN_SIDE_PX) * math.ceil(height / TOKEN_SIDE_PX)

    def seen_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """The size at which a picture is sent."""
        scale = min(1.0, LONG_SIDE_PX / max(width_px, height_px))
        return max(1, round(width_px * scale)), max(1, round(height_px * scale))

    def sample(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Sample:
        """See Reasoner. Raises InputError for a conversation that a server refuses, ModelError for all else it raises.

        A setting that a server names as the one it refuses is left out from then on; the longest turn, where it does
        not fit behind the conversation, this time.
        """
        spoken = self._spoken(messages)
        asked: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        while True:
            handed = {key: value for key, value in asked.items() if key in self.hands and value is not None}
            longest = max_new_tokens * CHARS_PER_TOKEN * (RUNAWAY if "max_tokens" in handed else 1)
            turn = _Turn(longest, on_text, totals=self.totals)
            try:
                self._listen(turn, spoken, handed, should_stop)
            except Exception as error:  # each provider raises errors of its own
                if "max_tokens" in handed and _has_no_room(error):
                    asked["max_tokens"] = None  # as long as there is room
                elif not self._does_without(error, handed):
                    raise self._failure(error) from error
            else:
                return turn.sample()

    def _listen(
        self, turn: "_Turn", spoken: Any, handed: dict[str, Any], should_stop: Callable[[], bool] | None
    ) -> None:
        """Fill a turn with what the model says. Raises what the provider raises, ModelError for what is no turn."""
        with closing(_as_it_comes(lambda: self.model.stream(spoken, **handed))) as chunks:
            for chunk in chunks:
                if chunk is not None:
                    turn.take(chunk)
                if turn.ended is None and should_stop is not None and should_stop():
                    turn.ended = "cancelled"
                if turn.ended is not None:
                    break
        if turn.failure:
            raise ModelError(f"{self.name} {turn.failure}")

    def _does_without(self, error: Exception, handed: dict[str, Any]) -> bool:
        """Whether the error names a setting that was handed: it is not handed again."""
        unknown = _UNKNOWN.search(str(error)) if isinstance(error, TypeError) else None
        refused = unknown[1] if unknown else getattr(error, "param", None)
        if refused not in handed:
            return False
        _log.warning("%s refuses %s=%r; it goes on without it", self.name, refused, handed[refused])
        self.hands -= {refused}
        return True

    def _failure(self, error: Exception) -> FoveateError:
        """A provider's error in one line."""
        if isinstance(error, FoveateError):
            return error
        said = f"{self.name} failed while it sampled: {named_line(error)}"
        return InputError(said) if getattr(error, "status_code", None) in REFUSED else ModelError(said)

    def _spoken(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as chat models take them; neighbours of one role become one, as some providers want."""
        turns: list[dict[str, Any]] = []
        for message in messages:
            role, parts = ROLES[checked_role(message)], self._parts(message)
            if role == "assistant" and not any(part["text"].strip() for part in parts):
                continue  # an empty turn, which some providers refuse to read
            if turns and turns[-1]["role"] == role:
                before = turns[-1]["content"]
                is_line = not before or before[-1].get("text", "").endswith("\n")
                before += parts if is_line else [_text("\n\n"), *parts]
            else:
                turns.append({"role": role, "content": parts})
        for turn in turns:
            if all(part["type"] == "text" for part in turn["content"]):
                turn["content"] = "".join(part["text"] for part in turn["content"])
        return turns

    def _parts(self, message: Message) -> list[dict[str, Any]]:
        is_own = message["role"] in ("assistant", "system")
        parts = [
            _text(part if is_own else inert(part)) if isinstance(part, str) else self._picture(part)
            for part in content_of(message)
        ]
        if message["role"] == "assistant":
            return [_text(without_thoughts(part["text"])) for part in parts]
        return [_text(RESPONSE[0]), *parts, _text(f"{RESPONSE[1]}\n")] if message["role"] == "tool" else parts

    def _picture(self, part: Any) -> dict[str, Any]:
        """A picture as a JPEG inside a URL. Raises InputError for a video or pixels of its own."""
        if not isinstance(part, Picture) or isinstance(part, SizedPicture):
            got = "min_pixels or max_pixels" if isinstance(part, SizedPicture) else "a video"
            raise InputError(f"{self.name} is shown pictures alone; wanted 'text' or 'image' parts, got {got}")
        image, buffer = rgb_of(part), BytesIO()
        sent = image.resize(self.seen_size(*image.size), Image.Resampling.LANCZOS)
        sent.save(buffer, "JPEG", quality=95, subsampling=0)
        url = f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}


def _has_no_room(error: Exception) -> bool:
    """Whether a server refuses a turn that is asked to be as long, and might take a shorter one."""
    return getattr(error, "status_code", None) == 400 and bool(_NO_ROOM.search(str(error)))


def _as_it_comes(begin: "Callable[[], Iterator[AIMessageChunk]]") -> "Generator[AIMessageChunk | None]":
    """What `begin` gives, and None each time that nothing has come for a while.

    It runs in a thread of its own, which leaves when the next piece comes after nobody wants it any more.
    """
    arrived: Queue[AIMessageChunk | Exception | None] = Queue()
    unwanted = threading.Event()

    def bring() -> None:
        try:
            for chunk in begin():
                arrived.put(chunk)
                if unwanted.is_set():
                    return
            arrived.put(None)
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            arrived.put(error)

    threading.Thread(target=copy_context().run, args=(bring,), name="chat-model", daemon=True).start()
    try:
        while True:
            try:
                piece = arrived.get(timeout=HEED_S)
            except Empty:
                yield None
                continue
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        unwanted.set()


def _name_of(model: "BaseChatModel") -> str:
    """What a provider calls it, where its class says so, under one of two names."""
    said = (getattr(model, key, None) for key in ("model_name", "model"))
    return next((name for name in said if isinstance(name, str) and name), type(model).__name__)


def without_thoughts(text: str) -> str:
    """A turn as its model reads it again: what it thought is left out, as chat templates do, unless it is all."""
    return _THOUGHT.sub("", text).strip() or text


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


class _Turn:
    """A turn as it arrives."""

    def __init__(self, longest: int, on_text: Callable[[str], None] | None, *, totals: bool) -> None:
        """`longest` in characters; for `totals` see ChatModelReasoner."""
        self.totals = totals
        self.longest, self.telling = longest, Telling(on_text, mark=OTHERS_TURN)
        self.text, self.thinks = "", False
        self.prompt_tokens = self.counted_tokens = 0
        self.ended: StopReason | None = None
        self.said_too_long = False
        self.calls: list[dict[str, str]] = []
        """In the provider's own form: id, name, and arguments as far as they have come."""
        self.open_calls: dict[object, dict[str, str]] = {}
        """Of those the last one of each number."""
        self.cut_letters = 0
        """Of a call that went on and on: the turn has not kept them, and has written them."""
        self.thought_at = 0
        self.declined = ""

    def take(self, chunk: "AIMessageChunk") -> None:
        """The next piece; `ended` tells when no more is wanted."""
        for each in chunk.content_blocks:
            block: Any = each
            if block["type"] == "reasoning" and block.get("reasoning"):
                self._think(str(block["reasoning"]))
            elif block["type"] == "text" and block["text"]:
                self._say(block["text"])
            elif block["type"] in ("tool_call", "tool_call_chunk"):
                self._call(block)
            elif "refusal" in (block["type"], (block.get("value") or {}).get("type")):
                self.declined = "refusal"
        if usage := chunk.usage_metadata:
            add: Callable[[int, int], int] = max if self.totals else operator.add
            self.prompt_tokens = add(self.prompt_tokens, usage["input_tokens"])
            self.counted_tokens = add(self.counted_tokens, usage["output_tokens"])
        incomplete = chunk.response_metadata.get("incomplete_details") or {}
        said = set(map(str, [*chunk.response_metadata.values(), *incomplete.values()]))
        self.said_too_long |= not TOO_LONG.isdisjoint(said)
        self.declined = next(iter(DECLINED & said), self.declined)
        if OTHERS_TURN in self.text:
            self.text, self.ended = self.text.partition(OTHERS_TURN)[0], "stop"
        elif len(self.text) >= self.longest:
            self.text, self.ended = self.text[: self.longest], "length"
        if self.ended is None:
            self.telling.so_far(self.text)

    def _think(self, piece: str) -> None:
        """A piece of a thought that came apart from the text; tags that it quotes are none."""
        if not self.thinks:
            self.text += "<think>"
            self.thinks, self.thought_at = True, len(self.text)
        begun = max(self.thought_at, len(self.text) - LONGEST_TAG)  # a tag may come in pieces
        before, thought = self.text[:begun], self.text[begun:] + piece
        self.text = before + _QUOTED.sub(lambda tag: f"{tag[0]}\u200b", thought)

    def _say(self, piece: str) -> None:
        self.text += ("</think>" if self.thinks else "") + piece
        self.thinks = False

    def _call(self, block: Any) -> None:
        """A call, or a piece of one: of some servers also one that the model wrote as text.

        What comes when the turn is too long already is no part of it, nor is the call that it would go on with.
        """
        number, ident = block.get("index"), block.get("id") or ""
        call = self.open_calls.get(number) if number is not None else None
        if call is not None and ident and call["id"] and ident != call["id"]:  # some servers number all of them 0
            call = None
        if len(self.text) + sum(len(one["arguments"]) for one in self.calls) > self.longest:
            self.ended = "length"
            if call is not None:
                self.calls.remove(call)
                self.cut_letters += len(call["arguments"])
            return
        if call is None:
            call = self.open_calls[number] = {"id": ident, "name": "", "arguments": ""}
            self.calls.append(call)
        arguments = block.get("args") or ""
        call["name"] += block.get("name") or ""
        call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)

    @property
    def failure(self) -> str:
        """Why it is no turn, in words; "" for one that is."""
        return f"broke its turn off ({self.declined}); ask it otherwise" if self.declined else ""

    def sample(self) -> Sample:
        """What came of it; calls in the provider's own form stand behind the text, in the agent's."""
        for call in self.calls:
            name, arguments = json.dumps(call["name"]), call["arguments"] or "{}"
            self._say(f'<tool_call>{{"name": {name}, "arguments": {arguments}}}</tool_call>')
        self.calls.clear()
        if self.cut_letters:  # and so nobody has told, at its end, how many tokens it had
            least = math.ceil((len(self.text) + self.cut_letters) / CHARS_PER_TOKEN)
            self.counted_tokens = max(self.counted_tokens, least)
        reason: StopReason = self.ended or ("length" if self.said_too_long else "stop")
        self.ended = reason
        self.telling.whole(self.text)
        return Sample(
            text=self.text + ("</think>" if self.thinks else ""),
            token_ids=(),
            logprobs=(),
            stop_reason=reason,
            prompt_tokens=self.prompt_tokens,
            counted_tokens=self.counted_tokens,
        )
