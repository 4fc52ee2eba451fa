"""What happens at each node of the graph: think, act, observe, answer.

A node takes the state and returns what changes. Whatever a model or a tool does wrong becomes text that the model
reads; whatever ends the question early becomes an `outcome` with a status and a reason; only bugs raise, and what may
be mended before the run is resumed, such as a full disk. A turn that was cut off by a cancel or by the clock is not
part of the conversation afterwards, so a follow-up continues a transcript of whole turns.
"""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace

from langgraph.runtime import Runtime
from PIL import Image

from foveate.agent.act import ToolRunner
from foveate.agent.budget import reason
from foveate.agent.images import ImageStore
from foveate.agent.messages import (
    Call,
    assistant_message,
    clean_text,
    observation_message,
    question_message,
    resolve,
    system_message,
)
from foveate.agent.parse import parse, split_thought
from foveate.agent.records import Settings, Step, StepDone, TextDelta, ToolStarted, Usage
from foveate.agent.running import context_of_caller
from foveate.agent.state import (
    Plain,
    RunContext,
    RunState,
    ended,
    exchange_of,
    image_from,
    more,
    only,
    step_from,
    to_plain,
)
from foveate.errors import ImageError, InputError, ModelError, ParseError
from foveate.models.reasoner import CHARS_PER_TOKEN, Message, Reasoner, Sample

CANCELLED = "cancelled by the user"
LAST_TURN = "This is your last turn: give your best answer now."
MAX_CALLS = 8
"""Tool calls of one turn that are run; the model is told that the rest were not."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes as methods over what all conversations share."""

    reasoner: Reasoner
    store: ImageStore
    observe_image: Callable[[Image.Image], Image.Image] | None = None

    def begin(self, state: RunState, runtime: Runtime[RunContext]) -> Plain:
        """Add the question and its pictures, if the budget takes them, to the conversation and start to count anew."""
        context, pictures = runtime.context, state["pictures"]
        tokens, refusal = self._tokens_of(pictures, context)
        message = question_message(state["question"], [picture["sha256"] for picture in pictures])
        opening = self.reasoner.dialect.wants_system_prompt and not state.get("messages")
        system = [system_message(context.tools, self.reasoner.dialect)] if opening else []
        return {
            "messages": more([] if refusal else [*system, message]),
            "images": more([] if refusal else pictures),
            "first_step": len(state.get("steps", [])),
            "usage": to_plain(Usage(image_tokens=tokens)),
            "pending": {},
            "results": [],
            "outcome": refusal,
        }

    def think(self, state: RunState, runtime: Runtime[RunContext]) -> Plain:
        """Sample one turn and read what it asks for."""
        context, usage = runtime.context, Usage(**state["usage"])
        spent = context.budget.spent(usage)
        if context.should_stop():
            return {"outcome": ended("cancelled", CANCELLED)}
        if spent:
            return {"outcome": ended("out_of_budget", spent)}
        messages, start = self._messages(state, context), time.monotonic()
        try:
            sample = self._sample(messages, context, usage, start)
        except (InputError, ModelError) as error:
            spent_s = time.monotonic() - start
            spoiled = replace(usage, seconds=usage.seconds + spent_s)
            failed: Plain = {"outcome": ended("error", str(error)), "usage": to_plain(spoiled)}
            if usage.turns == 0:  # asked again it is there once, and where it was too much another may be short enough
                return failed | _taken_back(state)
            return failed | ({} if isinstance(error, ModelError) else _last_turn_taken_back(state))
        seconds, tokens = time.monotonic() - start, count_tokens(sample)
        used = replace(
            usage, turns=usage.turns + 1, policy_tokens=usage.policy_tokens + tokens, seconds=usage.seconds + seconds
        )
        thought, update = _reading(sample, context, used)
        step = Step(kind="think", text=thought, tokens=tokens, seconds=seconds)
        context.emit(StepDone(step=step))
        return {**update, "steps": more([to_plain(step)]), "usage": to_plain(used), "results": []}

    def act(self, state: RunState, runtime: Runtime[RunContext]) -> Plain:
        """Run the first pending call without a result; where it is not run any more, nor are those after it."""
        context, usage = runtime.context, Usage(**state["usage"])
        calls = [Call(**plain) for plain in state["pending"]["calls"]]
        number = len(state["results"])
        refusal = _not_run(context, usage, number)
        if refusal:
            results = [_refused(call, refusal) for call in calls[number:]]
        else:
            result, usage = self._run(state, calls[number], context, usage)
            results = [result]
        for result in results:
            context.emit(StepDone(step=step_from(deepcopy(result["step"]))))
        outcome = ended("cancelled", CANCELLED) if context.should_stop() else {}
        return {"results": [*state["results"], *results], "usage": to_plain(usage), "outcome": outcome}

    def observe(self, state: RunState, runtime: Runtime[RunContext]) -> Plain:
        """Show the model what its calls returned, or what is wrong with its turn."""
        context = runtime.context
        results = state["results"]
        if not results:
            results = [_malformed(state)]
            context.emit(StepDone(step=step_from(results[0]["step"])))
        left = context.budget.turns - state["usage"]["turns"]
        hint = LAST_TURN if left == 1 and self.reasoner.dialect.wants_system_prompt else ""
        messages = []
        for number, result in enumerate(results, start=1):
            step = step_from(result["step"])
            text = f"{step.text}\n{hint}" if hint and number == len(results) else step.text
            call_id = _call_id(state, number - 1)
            messages.append(observation_message(call_id, step.tool or "error", text, step.image))
        images = [result["image"] for result in results if result["image"]]
        return {
            "messages": more(messages),
            "images": more(images),
            "steps": more([result["step"] for result in results]),
            "results": [],
        }

    def answer(self, state: RunState, runtime: Runtime[RunContext]) -> Plain:
        """End the question with the model's answer, or with the best answer so far."""
        outcome = state["outcome"] or ended("answered", text=state["pending"]["answer"])
        if outcome["status"] == "out_of_budget" and not outcome["text"]:
            outcome = {**outcome, "text": _best_so_far(state)}
        steps = [Step(kind="answer", text=outcome["text"])] if outcome["text"] else []
        for step in steps:
            runtime.context.emit(StepDone(step=step))
        exchange = exchange_of(state, outcome, added_steps=len(steps), settings=self._settings(runtime.context))
        return {
            "outcome": outcome,
            "steps": more([to_plain(step) for step in steps]),
            "exchanges": more([exchange]),
            "pending": {},
        }

    def _tokens_of(self, pictures: list[Plain], context: RunContext) -> tuple[int, Plain]:
        """The tokens of a question's pictures; 0 and the outcome where they are not taken."""
        try:
            tokens = sum(self.reasoner.image_tokens(picture["width_px"], picture["height_px"]) for picture in pictures)
        except (ImageError, ModelError) as error:  # an agent asks before, but a run may be resumed with another model
            return 0, ended("error", str(error))
        refusal = context.budget.refuses_image(Usage(), tokens) if pictures else None
        return (0, ended("out_of_budget", refusal)) if refusal else (tokens, {})

    def _run(self, state: RunState, call: Call, context: RunContext, usage: Usage) -> tuple[Plain, Usage]:
        """The result of a call, which sees the images of those before it, and what the question has used with it."""
        made = [result["image"] for result in state["results"] if result["image"]]
        images = [image_from(plain) for plain in [*state["images"], *made]]
        runner = ToolRunner(reasoner=self.reasoner, store=self.store, observe_image=self.observe_image)
        context.emit(ToolStarted(tool=call.name, arguments=deepcopy(call.arguments)))
        call_id = _call_id(state, len(state["results"]))
        done = context_of_caller().run(runner.run, call_id, call, images, context, usage)
        return {"step": to_plain(done.step), "image": to_plain(done.image) if done.image else None}, done.usage

    def _settings(self, context: RunContext) -> Settings:
        model = clean_text(self.reasoner.name)
        return Settings(model=model, budget=context.budget, temperature=context.temperature, seed=context.seed)

    def _messages(self, state: RunState, context: RunContext) -> list[Message]:
        """The conversation with its pictures; the tools, and the model, may be others than when it began."""
        messages = resolve(state["messages"], self.store.get)
        spoken = messages[1:] if messages[0]["role"] == "system" else messages
        wanted = self.reasoner.dialect.wants_system_prompt
        return [system_message(context.tools, self.reasoner.dialect), *spoken] if wanted else spoken

    def _sample(self, messages: list[Message], context: RunContext, usage: Usage, start: float) -> Sample:
        deadline = start + context.budget.seconds - usage.seconds
        return self.reasoner.sample(
            messages,
            max_new_tokens=context.budget.policy_tokens - usage.policy_tokens,
            temperature=context.temperature,
            seed=None if context.seed is None else (context.seed * 1_000_003 + usage.turns) % 2**63,
            on_text=(lambda text: context.emit(TextDelta(text=text))) if context.emits_text else None,
            should_stop=lambda: context.should_stop() or time.monotonic() >= deadline,
        )


def count_tokens(sample: Sample) -> int:
    """Policy tokens of a turn; estimated from its length for a model that neither shows nor counts them."""
    return len(sample.token_ids) or sample.counted_tokens or math.ceil(len(sample.text) / CHARS_PER_TOKEN)


def _reading(sample: Sample, context: RunContext, used: Usage) -> tuple[str, Plain]:
    """The thought of a turn, and what the turn changes: the conversation, what is pending, how the run ends."""
    if sample.stop_reason == "cancelled":
        return split_thought(sample.text), {"pending": {}, "outcome": _cut_off(context, used)}
    message = assistant_message(sample.text, sample.token_ids)
    spent = _no_next_turn(sample, context, used)
    outcome = ended("out_of_budget", spent) if spent else {}
    try:
        parsed = parse(sample.text)
    except ParseError as error:
        return split_thought(sample.text), {
            "messages": more([message]),
            "pending": {"error": str(error)},
            "outcome": outcome,
        }
    if parsed.answer is None:
        pending: Plain = {"calls": [asdict(call) for call in parsed.calls]}
    else:
        pending = {"answer": parsed.answer}
        is_whole = sample.stop_reason == "stop" or "</answer>" in sample.text
        outcome = {} if is_whole else {**outcome, "text": parsed.answer}
    return parsed.thought, {"messages": more([message]), "pending": pending, "outcome": outcome}


def _taken_back(state: RunState) -> Plain:
    """The conversation without a question that no turn has followed, and without its pictures."""
    return {
        "messages": only(len(state["messages"]) - 1),
        "images": only(len(state["images"]) - len(state["pictures"])),
    }


def _last_turn_taken_back(state: RunState) -> Plain:
    """The conversation up to the last turn, which what its calls returned made too much, without their images."""
    roles = [message["role"] for message in state["messages"]]
    kept = len(roles) - 1 - roles[::-1].index("assistant")
    parts = (part for message in state["messages"][kept:] for part in message["content"])
    dropped = sum(isinstance(part, dict) and "sha256" in part for part in parts)
    return {"messages": only(kept), "images": only(len(state["images"]) - dropped)}


def _no_next_turn(sample: Sample, context: RunContext, used: Usage) -> str | None:
    """Why no turn can follow this one, in words; None when one can."""
    if sample.stop_reason == "length" and used.policy_tokens < context.budget.policy_tokens:
        return f"turn: the model did not end its turn in {count_tokens(sample)} tokens"
    return context.budget.spent(used)


def _cut_off(context: RunContext, used: Usage) -> Plain:
    """The outcome of a turn that was stopped: by the user, by the clock, or by the model's own failure."""
    if context.should_stop():
        return ended("cancelled", CANCELLED)
    if used.seconds < context.budget.seconds:
        return ended("error", "the model gave up in the middle of its turn")
    return ended("out_of_budget", reason("seconds", used.seconds, context.budget.seconds))


def _not_run(context: RunContext, usage: Usage, number: int) -> str | None:
    """Why call `number` of a turn is not run, in words for the model; None when it may run."""
    if context.should_stop():
        return f"not run: {CANCELLED}"
    if usage.seconds >= context.budget.seconds:
        return "not run: the time is up"
    return f"not run: at most {MAX_CALLS} calls in one turn" if number >= MAX_CALLS else None


def _call_id(state: RunState, number: int) -> str:
    """The id of call `number` of a turn: calls are counted over the conversation."""
    return f"call_{sum(message['role'] == 'tool' for message in state['messages']) + number}"


def _refused(call: Call, refusal: str) -> Plain:
    """The result of a call that is not run."""
    step = Step(kind="tool", text=refusal, tool=call.name, arguments=call.arguments, failed=True)
    return {"step": to_plain(step), "image": None}


def _malformed(state: RunState) -> Plain:
    """The result that tells the model why its turn could not be read."""
    return {"step": to_plain(Step(kind="error", text=state["pending"]["error"], failed=True)), "image": None}


def _best_so_far(state: RunState) -> str:
    """The last thought of this question that says something."""
    thoughts = [
        step["text"] for step in state["steps"][state["first_step"] :] if step["kind"] == "think" and step["text"]
    ]
    return thoughts[-1] if thoughts else ""
