"""Generation for many conversations at once, each keeping its cache from turn to turn.

The engine holds a cache with one slot per conversation. A request prefills only what its slot does not hold yet, then
joins the batch that decodes one token a step; it leaves when it ends and others go on (continuous batching). There is
no thread of its own: whoever waits for an answer drives the engine for everybody, one step under the lock at a time,
when the players that it waits for have come (foveate.models.pace).

Shape letters: T tokens, D width, V vocabulary, B requests in a step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from traceback import clear_frames

import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.models.cache import CachedStep, KVCache
from foveate.models.pace import Pace
from foveate.models.prefix import Key, common_length, image_boundary, token_keys
from foveate.models.reasoner import OTHERS_TURN, StopReason
from foveate.models.sampling import allowed_logprobs, penalized, pick
from foveate.models.seen import SeenImages, UnwantedError
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript, image_rows
from foveate.models.turn_text import Telling, before_others_turn

PREFILL = 4096
"""Tokens that are computed at once at most: what a long beginning takes of memory does not grow with its length."""
AHEAD = 512
"""Tokens of a turn for which there is room at once: what a longer one wants is copied as it grows."""
PATIENCE_S = 0.1
"""For whom waits for the lock and is interrupted there, which nobody is told."""


@dataclass(kw_only=True, eq=False)
class Request:
    """A continuation asked for, and what has come of it."""

    transcript: Transcript
    max_new_tokens: int
    temperature: float
    generator: torch.Generator | None
    on_text: Callable[[str], None] | None = None
    should_stop: Callable[[], bool] | None = None
    begun: str = ""
    """What the template has written of the turn's text."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop_reason: StopReason | None = None
    failure: Exception | None = None
    """Why the turn ended before its time; raised where it was asked for."""
    slot: int = -1
    next_position: int = 0
    held_V: Tensor | None = None
    """Which tokens the conversation holds, where that counts."""
    telling: Telling = field(default_factory=lambda: Telling(None))
    player: int | None = None
    place: tuple[int, int] = (0, 0)
    """The step before which it must not begin, and its place among those that begin then."""
    text: str = ""
    """When it has ended: all that was said, with what had been begun."""

    def is_unwanted(self) -> bool:
        """Whether its caller wants no more of it."""
        return self.should_stop is not None and self.should_stop()


@dataclass
class Slot:
    """What a slot of the cache holds: one key per token, an image's tokens keyed by its pixels."""

    keys: list[Key] = field(default_factory=list)
    used_at: int = 0
    request: Request | None = None


class Engine:
    """Continuous batching over one thinker. Thread-safe."""

    def __init__(
        self, thinker: Thinker, num_slots: int = 8, *, truncates: bool = True, heeds_others: bool = False
    ) -> None:
        """`truncates`: whether the model's top_k, top_p and repetition_penalty count where a token is chosen.

        `heeds_others`: whether a turn ends where the model would go on in OTHERS_TURN.
        """
        self.thinker, self.truncates, self.heeds_others = thinker, truncates, heeds_others
        unchanged = replace(thinker.config, top_k=0, top_p=1.0, repetition_penalty=1.0)
        self.choice = thinker.config if truncates else unchanged
        self.codec = thinker.processor.codec
        self.num_slots = num_slots
        self.cache = self._empty()
        self.seen = SeenImages(thinker)
        self.slots = [Slot() for _ in range(num_slots)]
        self.waiting: list[Request] = []
        self.at_the_door: list[Request] = []
        """Those whose threads wait for the lock: who decodes would take it again before any of them."""
        self.pace = Pace()
        self.clock = 0

    def with_slots(self, num_slots: int) -> "Engine":
        """Another one over the same thinker."""
        return Engine(self.thinker, num_slots, truncates=self.truncates, heeds_others=self.heeds_others)

    def _empty(self) -> KVCache:
        return KVCache(self.thinker.config.decoder, self.num_slots, self.thinker.decoder.embed.weight)

    def run(self, request: Request) -> Request:
        """Carry out a request; returns it when it has ended.

        Raises ModelError when a step produced no number, and whatever its own callbacks raise: others go on then.
        """
        request.telling = Telling(request.on_text, mark=OTHERS_TURN if self.heeds_others else "")
        with self._let_in(request):
            request.player, request.place = self.pace.come()
            self.waiting.append(request)
        while request.stop_reason is None:
            with self.pace.changed, torch.inference_mode():
                try:
                    self.pace.changed.wait_for(lambda: not self.at_the_door, timeout=PATIENCE_S)
                    self.pace.changed.wait_for(lambda: request.stop_reason is not None or self._may_step())
                    if request.stop_reason is None:
                        self.step()
                except BaseException as error:
                    self._abandon(request, error)
                    raise
        if request.failure is not None:
            raise request.failure
        return request

    @contextmanager
    def _let_in(self, request: Request) -> Iterator[None]:
        """Holds the lock; while the request waits for it, nobody decodes on."""
        self.at_the_door.append(request)
        try:
            self.pace.changed.acquire()
        finally:
            self.at_the_door.remove(request)
        try:
            yield
        finally:
            self.pace.changed.release()

    def forget(self, *, tower: bool = True) -> None:
        """Drop what the slots hold, and what the tower made of pictures; nothing may be active."""
        self.slots, self.clock = [Slot() for _ in self.slots], 0
        if self.cache.k.device.type != "cpu":  # whose memory is wanted for what comes now
            self.cache = self._empty()
        if tower:
            self.seen.forget()

    def step(self) -> None:
        """Admit who is due, then decode one token for everybody who is active."""
        for request in list(self.waiting):
            with self._alone(request):
                if request.is_unwanted():
                    self._finish(request, "cancelled")
        for request in self._due():
            with self._alone(request):
                self._admit(request)
        active = [slot.request for slot in self.slots if slot.request is not None]
        if active:
            self._decode(active)
        self.pace.tick()

    @contextmanager
    def _alone(self, request: Request) -> Iterator[None]:
        """What fails inside the block ends this request and no other; what its slot holds may be half."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised where the turn was asked for
            if request.slot >= 0:
                self.slots[request.slot].keys.clear()
            self._fail(request, error)

    def _abandon(self, request: Request, error: BaseException) -> None:
        """End whom a step that was broken off concerns, and forget what the slots hold: some of it may be half."""
        for other in [slot.request for slot in self.slots if slot.request is not None]:
            reason = f"the step that sampled for several was broken off ({type(error).__name__}); ask again"
            self._fail(other, ModelError(reason))
        if request in self.waiting:
            self._end(request, "cancelled")
        self.forget(tower=False)
        self.pace.changed.notify_all()

    def _may_step(self) -> bool:
        """Whether all players that are due have come; where nobody decodes, the clock goes on to who comes next."""
        if self.waiting and len(self._free()) == len(self.slots):
            self.pace.skip(min(request.place[0] for request in self.waiting))
        return self.pace.all_are_here()

    def _due(self) -> list[Request]:
        """Who may begin now and finds a slot, in their order."""
        due = [request for request in self.waiting if request.place[0] <= self.pace.now]
        return sorted(due, key=lambda request: request.place)[: len(self._free())]

    def _free(self) -> list[int]:
        return [index for index, slot in enumerate(self.slots) if slot.request is None]

    def _admit(self, request: Request) -> None:
        """Give the request a slot, with as much of a known prefix as possible, and prefill the rest."""
        self.clock += 1
        keys = token_keys(request.transcript)
        known = [common_length(slot.keys, keys) for slot in self.slots]
        shared, source, free = max(known), known.index(max(known)), self._free()
        there = self.cache.num_slots  # on a GPU another one costs more than what it would keep
        oldest = min(free, key=lambda index: (index >= there, self.slots[index].used_at))
        target = source if source in free and shared == len(self.slots[source].keys) else oldest
        start = image_boundary(request.transcript, min(shared, len(keys) - 1))
        slot = self.slots[target]
        slot.keys, slot.used_at, slot.request, request.slot = keys, self.clock, request, target
        self.waiting.remove(request)
        self.cache.copy_prefix(source, target, start)
        hidden_TD = self._prefill(request, start)
        if hidden_TD is None:
            del slot.keys[self.cache.lengths[target] :]
            self._finish(request, "cancelled")
            return
        request.next_position = int(request.transcript.positions_3T.max()) + 1
        if self.choice.repetition_penalty != 1.0:
            request.held_V = torch.zeros(self.thinker.config.decoder.vocab_size, dtype=torch.bool)
            request.held_V[request.transcript.token_ids] = True
        if request.max_new_tokens < 1:
            self._finish(request, "length")
        else:
            self._append(request, *self._logprobs(hidden_TD[-1:], [request])[0])

    def _prefill(self, request: Request, start: int) -> Tensor | None:
        """Hidden states [T, D] of the last part that is computed at once; None where it was not wanted to its end."""
        transcript = request.transcript
        late = [
            (s - start, image)
            for s, image in zip(transcript.image_starts, transcript.images, strict=True)
            if s >= start
        ]
        images, starts = [image for _, image in late], [s for s, _ in late]
        try:
            seen_MD = self.seen(images, is_unwanted=request.is_unwanted) if images else None
        except UnwantedError:
            return None
        rows_M = image_rows(images, starts)
        room = len(transcript) + min(max(1, request.max_new_tokens), AHEAD)
        self.cache.reserve(room)  # at once, not part by part: each time what is held is copied
        hidden_TD: Tensor | None = None
        for first in range(start, len(transcript), PREFILL):
            if request.is_unwanted():
                return None
            part = slice(first, first + PREFILL)
            inside_M = (first - start <= rows_M) & (rows_M < first - start + PREFILL)
            shown_MD = None if seen_MD is None else seen_MD[inside_M]
            x_TD = self.thinker.put_in(transcript.token_ids[part], rows_M[inside_M] - (first - start), shown_MD)
            hidden_TD = self._forward(x_TD, transcript.positions_3T[:, part], [request.slot], [len(x_TD)])
        return hidden_TD

    def _decode(self, active: list[Request]) -> None:
        for request in active:
            with self._alone(request):  # of several, that one fails for whose next token there is no room
                self.cache.reserve(self.cache.lengths[request.slot] + 1)
        active = [request for request in active if request.stop_reason is None]
        if not active:
            return
        x_BD = self.thinker.decoder.embed_text(torch.tensor([request.token_ids[-1] for request in active]))
        positions = torch.tensor([request.next_position for request in active]).expand(3, -1)
        hidden_BD = self._forward(x_BD, positions, [request.slot for request in active], [1] * len(active))
        for request, (logprobs_V, chosen_by_V) in zip(active, self._logprobs(hidden_BD, active), strict=True):
            self.slots[request.slot].keys.append(request.token_ids[-1])
            request.next_position += 1
            with self._alone(request):
                self._append(request, logprobs_V, chosen_by_V)

    def _forward(self, x_TD: Tensor, positions_3T: Tensor, slots: list[int], counts: list[int]) -> Tensor:
        step = CachedStep(self.cache, slots, counts)
        hidden_TD, _ = self.thinker.decoder(x_TD, positions_3T, step)
        step.finish()
        result: Tensor = hidden_TD
        return result

    def _logprobs(self, hidden_BD: Tensor, requests: list[Request]) -> list[tuple[Tensor, Tensor]]:
        """Of each request's next token [V], on the processor: the policy's, and those that one is chosen by."""
        never, penalty = self.codec.never_sampled, self.choice.repetition_penalty
        logits_BV = self.thinker.decoder.head(hidden_BD)
        logprobs_BV = allowed_logprobs(logits_BV, never).cpu()
        if penalty == 1.0:
            return [(logprobs_V, logprobs_V) for logprobs_V in logprobs_BV]
        held = [request.held_V for request in requests if request.held_V is not None]
        lower = [penalized(*row, penalty) for row in zip(logits_BV.cpu(), held, strict=True)]
        return [(*pair,) for pair in zip(logprobs_BV, (allowed_logprobs(row_V, never) for row_V in lower), strict=True)]

    def _append(self, request: Request, logprobs_V: Tensor, chosen_by_V: Tensor) -> None:
        """Sample a request's next token and end it when that was the last. Raises ModelError when there is none."""
        if not bool(torch.isfinite(logprobs_V.max())):
            raise ModelError("the model's logits are not numbers; the checkpoint is damaged or its dtype overflows")
        token = pick(chosen_by_V, request.temperature, request.generator, self.choice)
        request.token_ids.append(token)
        request.logprobs.append(float(logprobs_V[token]))
        if request.held_V is not None:
            request.held_V[token] = True
        kept = before_others_turn(request.token_ids, self.codec.decode) if self.heeds_others else None
        if kept is not None:
            self._finish(request, "stop", kept)
            return
        if request.on_text is not None:
            request.telling.so_far(self._text(request))
        if token in self.codec.ends:
            self._finish(request, "stop")
        elif len(request.token_ids) >= request.max_new_tokens:
            self._finish(request, "length")
        elif request.is_unwanted():
            self._finish(request, "cancelled")

    def _text(self, request: Request) -> str:
        return request.begun + self.codec.decode(request.token_ids)

    def _finish(self, request: Request, reason: StopReason, kept: int | None = None) -> None:
        """Tell the rest of the text and end; `kept`, how many ids of a turn that went on into somebody else's."""
        request.text = self._text(request)
        if kept is not None:
            request.text = request.text.partition(OTHERS_TURN)[0]
            del request.token_ids[kept:], request.logprobs[kept:]
            del self.slots[request.slot].keys[len(request.transcript) + kept :]
        request.telling.whole(request.text)
        self._end(request, reason)

    def _fail(self, request: Request, error: Exception) -> None:
        clear_frames(error.__traceback__)  # which hold what a step made, and are held by whoever is told
        request.failure = error
        self._end(request, "cancelled")

    def _end(self, request: Request, reason: StopReason) -> None:
        """The turn is over, whether it has a slot or still waits for one."""
        if request.slot >= 0:
            self.slots[request.slot].request = None
        if request in self.waiting:
            self.waiting.remove(request)
        self.pace.go(request.player)
        request.stop_reason = reason
