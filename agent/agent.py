"""The Python face: ask a question about pictures, get the answer with the way that led to it.

    with Agent("nano", checkpoint="talk.sqlite") as agent:
        answer = agent.ask("What does the red sign say?", ["street.jpg"], thread="trip")
        answer = agent.ask("And the one beside it?", thread="trip")

`ask` is `stream` run to its end. A run happens in a thread of its own and hands its events over a queue, so Ctrl-C or a
closed iterator reaches the model at the next token, a tool through `Tool.cancel`, and the conversation stays usable. A
conversation (`thread`) takes one question at a time; different conversations may run at once from different threads.
Tools with state (the code kernel) live as long as the conversation when it has a name, else as long as the question.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot
from PIL import Image

from foveate.agent.arguments import (
    checked_budget,
    checked_observer,
    checked_question,
    checked_seed,
    checked_store,
    checked_temperature,
    pictures_in,
    tools_of,
    usual_tools,
)
from foveate.agent.budget import Budget
from foveate.agent.checkpoint import IN_MEMORY, close_checkpointer, intact, is_postgres, legible, open_checkpointer
from foveate.agent.graph import Graph, build_graph
from foveate.agent.images import ImageStore, picture_record
from foveate.agent.messages import clean_text
from foveate.agent.nodes import MAX_CALLS
from foveate.agent.records import Answer, ImageRecord, RunDone
from foveate.agent.running import CLOSE_PATIENCE_S, EventStream, Run, close_all, context_of_caller, opened_for_run
from foveate.agent.state import (
    Exchange,
    QuestionInput,
    RunContext,
    RunState,
    budget_of,
    checked,
    exchanges_of,
    question_input,
)
from foveate.errors import ImageError, InputError
from foveate.models.device import AUTO
from foveate.models.load import reasoner_of
from foveate.models.reasoner import Reasoner
from foveate.pictures import PictureSource, picture_and_bytes
from foveate.tools.tool import Tool

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

MOST_OPEN = 8
"""Conversations that keep their tools, a code kernel of some 54 MiB each; those asked longest ago lose them first."""


class Agent:
    """Answers questions about pictures with a model that may look again."""

    def __init__(
        self,
        model: "Reasoner | BaseChatModel | str | Path" = "nano",
        *,
        tools: Sequence[Tool | Callable[..., Any]] | None = None,
        budget: Budget | None = None,
        checkpoint: str | Path | None = None,
        store: ImageStore | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        observe_image: Callable[[Image.Image], Image.Image] | None = None,
        device: str = AUTO,
    ) -> None:
        """Build the agent; InputError (ConfigError for a wrong value) or ModelError when a part of it cannot be had.

        model: a Reasoner, a chat model of LangChain, the address of an endpoint, a checkpoint folder, OWNER/NAME of the
            Hugging Face hub, or "nano" for the one that ships with the package.
        tools: None for zoom, python and search, as terse as nano knows them or less so; () for none. A plain function
            becomes a Tool.
        checkpoint: what keeps conversations: a SQLite file, the URL of a PostgreSQL database (postgresql://..., which
            needs a store), ":memory:" for this process only, None to keep none.
        store: where images live; by default beside the checkpoint file (``FILE.images``), else in memory, which keeps
            every picture and crop as long as the agent lives: give an ImageStore of a folder to one that lives long.
        temperature: of sampling, 0 takes the likeliest token.
        seed: makes sampling repeatable.
        observe_image: replaces each image that a tool made before the model sees it, for faithfulness controls.
        device: where a model that is given by name computes: "cpu", "cuda", or "auto" for a GPU where torch finds one,
            but nano and rounded weights stay on the processor.
        """
        self.budget = checked_budget(budget) or Budget()
        self._temperature, self._seed = checked_temperature(temperature), checked_seed(seed)
        self._reasoner = reasoner_of(model, device)
        self._tools = usual_tools(self._reasoner.dialect) if tools is None else tools_of(tools)
        self.store = _store_of(checked_store(store), checkpoint)
        self._checkpointer = open_checkpointer(checkpoint)
        self._observe_image = checked_observer(observe_image)
        self._closed = False
        self._runs: dict[str, Run] = {}
        self._open_tools: dict[str, tuple[Tool, ...]] = {}
        self._lock = threading.Lock()

    @cached_property
    def _passing(self) -> Graph:
        """The loop of questions that no conversation keeps."""
        return build_graph(self._reasoner, self.store, observe_image=self._observe_image)

    @cached_property
    def _kept(self) -> Graph:
        """The loop of questions that belong to a conversation."""
        return build_graph(
            self._reasoner, self.store, observe_image=self._observe_image, checkpointer=self._checkpointer
        )

    def ask(
        self,
        question: str,
        images: PictureSource | Iterable[PictureSource] = (),
        *,
        thread: str | None = None,
        budget: Budget | None = None,
    ) -> Answer:
        """Answer a question about a picture or several (paths, bytes of files, or PIL images).

        A `thread` names a conversation that earlier questions may have begun; it needs a checkpoint. Raises InputError
        for an empty question, ImageError for a picture that cannot be opened or that the model does not take; whatever
        happens later is the answer's status, but for a disk or database that fails: that raises, and `resume` goes on.
        """
        return _last_answer(self._asked(question, images, thread, budget, emits_text=False))

    def stream(
        self,
        question: str,
        images: PictureSource | Iterable[PictureSource] = (),
        *,
        thread: str | None = None,
        budget: Budget | None = None,
    ) -> EventStream:
        """The same as events, the last of which is RunDone. Closing or dropping the stream cancels the run."""
        return self._asked(question, images, thread, budget, emits_text=True)

    def resume(self, thread: str, *, budget: Budget | None = None) -> EventStream:
        """Go on with the question of `thread` that a killed process left unfinished, in the budget that it had.

        `budget` in place of that. Raises InputError when there is none, or while it is being answered.
        """
        budget = checked_budget(budget)
        self._check_free(thread)
        return self._events(None, thread, budget or self._left_budget(thread), emits_text=True)

    def unfinished(self, thread: str) -> str | None:
        """The question that a killed process left unfinished in `thread`, or that is being answered; None for none."""
        self._check_thread(thread)
        snapshot = self._held(thread)
        # Not `next`: it leaves out a node whose writes are kept while the step after it is not.
        return snapshot.values.get("question") if snapshot.tasks else None

    def _left_budget(self, thread: str) -> Budget | None:
        """That of the question that is left unfinished; InputError when there is none."""
        self._check_thread(thread)
        snapshot = self._held(thread)
        if not snapshot.tasks:
            raise InputError(
                f"got the thread {thread!r} without an unfinished question, wanted one; ask a question instead"
            )
        return budget_of(cast(RunState, snapshot.values))

    def exchanges(self, thread: str) -> tuple[Exchange, ...]:
        """The finished questions of a conversation with their answers, the oldest first."""
        self._check_thread(thread)
        return exchanges_of(cast(RunState, self._held(thread).values))

    def open_picture(self, source: PictureSource) -> Image.Image:
        """A picture as a question takes it, upright and RGB; ImageError for one that the model cannot be shown."""
        return self._opened(source)[0]

    def image(self, sha256: str) -> Image.Image:
        """An image that an answer or a step names; a copy."""
        return self.store.get(sha256).copy()

    def cancel(self, thread: str | None = None) -> bool:
        """End the run of a conversation, or every run, at its next token or call; whether there was one.

        Its status is "cancelled". A run begins with the first event that is asked for. Safe in a signal handler.
        """
        runs = [run for run in list(self._runs.values()) if thread is None or run.thread == thread]
        for run in runs:
            run.cancelled = True
        return bool(runs)

    def release(self, thread: str) -> None:
        """Free the tools of a conversation, its code kernel with all variables; it gets new ones with a next question.

        Raises InputError while it is answering.
        """
        self._end_abandoned(thread)
        with self._lock:
            self._refuse_busy(thread)
            tools = self._open_tools.pop(thread, ())
        close_all(tools)

    def forget(self, thread: str) -> None:
        """Delete a conversation, and free its tools; its pictures, which others may have too, stay in the store.

        Raises InputError while it is answering.
        """
        self._check_thread(thread)
        self._end_abandoned(thread)
        with self._lock:
            self._refuse_busy(thread)
            tools = self._open_tools.pop(thread, ())
            run = self._runs[_thread_key(thread)] = Run(thread=thread, tools=())  # nobody asks in it meanwhile
        try:
            if self._checkpointer is not None:
                with legible():
                    self._checkpointer.delete_thread(thread)
        finally:
            self._forget(run)
        close_all(tools)

    def close(self) -> None:
        """Cancel what runs and free tools and files; may be called twice. Nothing can be asked afterwards."""
        with self._lock:
            self._closed = True
        self.cancel()
        for run in list(self._runs.values()):
            run.end(CLOSE_PATIENCE_S)
            self._forget(run)
        with self._lock:
            opened, self._open_tools = self._open_tools, {}
        for tools in opened.values():
            close_all(tools)
        close_checkpointer(self._checkpointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the agent is closed, wanted an open one; make another with Agent(...)")

    def _check_thread(self, thread: str | None) -> None:
        self._check_open()
        if thread is None:
            return
        if self._checkpointer is None:
            raise InputError(
                f'got the thread {thread!r} and no checkpoint, wanted one: Agent(..., checkpoint=":memory:" or a path)'
            )
        if not isinstance(thread, str) or not 1 <= len(thread) <= 200 or not thread.isprintable():
            raise InputError(f"got the thread {thread!r:.40}, wanted a name of 1 to 200 printable characters")

    def _held(self, thread: str) -> StateSnapshot:
        """What the checkpoint holds of a conversation, judged: it may be damaged, or another version's."""
        with intact(thread):
            snapshot = self._kept.get_state(_config(thread))
            checked(snapshot.values)
        return snapshot

    def _asked(
        self,
        question: str,
        images: PictureSource | Iterable[PictureSource],
        thread: str | None,
        budget: Budget | None,
        *,
        emits_text: bool,
    ) -> EventStream:
        """The events of a question, which is checked before the first of them is asked for."""
        question, budget = checked_question(question), checked_budget(budget)
        self._check_thread(thread)
        if thread is not None:
            self._check_free(thread)
            self._held(thread)
        sources = list(pictures_in(images))
        opened = [self._opened_of(sources, number) for number in range(len(sources))]
        records = [self._stored(*one) for one in opened]
        given = question_input(clean_text(question), records, budget or self.budget)
        return self._events(given, thread, budget, emits_text=emits_text)

    def _opened_of(self, sources: Sequence[PictureSource], number: int) -> tuple[Image.Image, bytes | None]:
        """One of several; an ImageError says which."""
        try:
            return self._opened(sources[number])
        except ImageError as error:
            raise ImageError(str(error) if len(sources) == 1 else f"picture {number + 1}: {error}") from error

    def _opened(self, source: PictureSource) -> tuple[Image.Image, bytes | None]:
        """A picture that the model takes, and the file that it was in."""
        picture, encoded = picture_and_bytes(source)
        self._reasoner.image_tokens(*picture.size)
        return picture, encoded

    def _stored(self, picture: Image.Image, encoded: bytes | None) -> ImageRecord:
        return picture_record(self.store.put(picture, encoded=encoded), picture.size)

    def _events(
        self, given: QuestionInput | None, thread: str | None, budget: Budget | None, *, emits_text: bool
    ) -> EventStream:
        def begin() -> Run:
            return self._begin(given, thread, budget or self.budget, emits_text=emits_text)

        return EventStream(begin)

    def _work(self, run: Run, given: QuestionInput | None, context: RunContext) -> None:
        """Invoke the graph; the last thing put into the queue is RunDone or the error."""
        try:
            config = _config(run.thread, context.budget)
            if run.thread is None:
                state = self._passing.invoke(given, config, context=context)
            else:
                if given is None:  # which may have been answered since, or deleted
                    self._left_budget(run.thread)
                with legible():
                    state = self._kept.invoke(given, config, context=context, durability="sync")
            run.events.put(RunDone(answer=exchanges_of(cast(RunState, state))[-1].answer))
        except BaseException as error:  # noqa: BLE001 - the stream raises it in the caller's thread
            run.events.put(error)
        finally:
            self._forget(run)

    def _begin(self, given: QuestionInput | None, thread: str | None, budget: Budget, *, emits_text: bool) -> Run:
        """Start a run; `_work` forgets it at its end, also when nobody waits for that."""
        self._end_abandoned(thread)
        with self._lock:
            self._check_open()
            if thread is not None:
                self._refuse_busy(thread)
            tools, evicted = self._tools_for(thread)
            run = Run(thread=thread, tools=tools)
            context = RunContext(
                budget=budget,
                tools=run.tools,
                temperature=self._temperature,
                seed=self._seed,
                should_stop=lambda: run.cancelled,
                emit=run.events.put,
                emits_text=emits_text,
            )
            work = partial(context_of_caller().run, self._work, run, given, context)
            run.worker = threading.Thread(target=work, name="foveate-run", daemon=True)
            self._runs[_key(run)] = run
            try:
                run.worker.start()
            except BaseException:
                self._forget(run)
                self._open_tools.update(evicted)  # who had them keeps them
                raise
        for others in evicted.values():
            close_all(others)
        return run

    def _forget(self, run: Run) -> None:
        """It is over, or nobody waits for it; may be called twice."""
        if self._runs.pop(_key(run), None) is not None and run.thread is None:
            close_all(run.tools)

    def _end_abandoned(self, thread: str | None) -> None:
        """Wait for a run of the conversation whose events nobody asks for any more; a tool may hold it up longer."""
        run = None if thread is None else self._runs.get(_thread_key(thread))
        if run is not None and run.abandoned:
            run.end(CLOSE_PATIENCE_S)

    def _check_free(self, thread: str) -> None:
        """Raises InputError while the conversation is answering."""
        self._check_open()
        self._end_abandoned(thread)
        with self._lock:
            self._refuse_busy(thread)

    def _refuse_busy(self, thread: str) -> None:
        if _thread_key(thread) in self._runs:
            raise InputError(f"the thread {thread!r} is still answering; wait for it or cancel it")

    def _tools_for(self, thread: str | None) -> tuple[tuple[Tool, ...], dict[str, tuple[Tool, ...]]]:
        """New ones, or those of the conversation, and those that others lose for it, by their names, to be closed.

        Under the lock, so that nobody releases them meanwhile.
        """
        if thread is None:
            return opened_for_run(self._tools), {}
        tools = self._open_tools.pop(thread, None) or opened_for_run(self._tools)
        idle = [other for other in self._open_tools if _thread_key(other) not in self._runs]
        self._open_tools[thread] = tools
        surplus = max(0, len(self._open_tools) - MOST_OPEN)
        return tools, {other: self._open_tools.pop(other) for other in idle[:surplus]}


def _store_of(store: ImageStore | None, checkpoint: str | Path | None) -> ImageStore:
    """The images of conversations: in the store that is given, in a folder beside their file, or in memory."""
    lasts = checkpoint is not None and str(checkpoint) != IN_MEMORY
    if store is not None:
        if lasts and not store.lasts:
            raise InputError(
                "conversations that outlive the process need pictures that do; give the store a folder: "
                "Agent(..., store=ImageStore(FOLDER))"
            )
        return store
    if checkpoint is None or not lasts:
        return ImageStore()
    if is_postgres(checkpoint):
        raise InputError(
            "conversations in PostgreSQL need a folder of images that every process which asks in them can read: "
            "Agent(..., store=ImageStore(FOLDER))"
        )
    return ImageStore(f"{checkpoint}.images")


def _last_answer(events: EventStream) -> Answer:
    with closing(events):
        for event in events:
            if isinstance(event, RunDone):
                return event.answer
    raise AssertionError("a run ends with RunDone or raises")


def _config(thread: str | None, budget: Budget | None = None) -> RunnableConfig:
    """LangGraph's config: the conversation, and a limit of node visits that the budget always reaches first."""
    limit = 10 + (3 + MAX_CALLS) * (budget.turns if budget else 0)
    return {"configurable": {"thread_id": thread} if thread else {}, "recursion_limit": limit}


def _key(run: Run) -> str:
    return _thread_key(run.thread) if run.thread is not None else f"run {id(run)}"


def _thread_key(thread: str) -> str:
    return f"thread {thread}"
