"""What happens at each node of the graph: think, act, observe, answer.

A node takes the state and returns what changes. Whatever a model or a tool does wrong becomes text that the model
reads; whatever ends the question early becomes an `outcome` with a status and a reason; only bugs raise. A turn that
was cut off by a cancel or by the clock is not part of the conversation afterwards, so a follow-up continues a
transcript of whole turns.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from langgraph.runtime import Runtime
from PIL import Image

from foveate.agent.act import Done, ToolRunner
from foveate.agent.budget import reason
from foveate.agent.images import ImageStore
from foveate.agent.messages import (
    Call,
    assistant_message,
    observation_message,
    question_message,
    resolve,
    system_message,
)
from foveate.agent.parse import parse, split_thought
from foveate.agent.records import Step, StepDone, TextDelta, Usage
from foveate.agent.state import Plain, RunContext, RunState, ended, exchange_of, image_from, more, step_from, to_plain
from foveate.errors import InputError, ModelError, ParseError
from foveate.models.reasoner import CHARS_PER_TOKEN, Reasoner, Sample

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
        context = runtime.context
        pictures = state["pictures"]
        tokens = sum(self.reasoner.image_tokens(picture["width_px"], picture["height_px"]) for picture in pictures)
        refusal = context.budget.refuses_image(Usage(), tokens) if pictures else None
        pictures = [] if refusal else pictures
        message = question_message(state["question"], [picture["sha256"] for picture in pictures])
        opening = self.reasoner.dialect.wants_system_prompt and not state.get("messages")
        system = [system_message(context.tools, self.reasoner.dialect)] if opening else []
        return {
            "messages": more([*system, message]),
            "images": more(pictures),
            "first_step": len(state.get("steps", [])),
            "usage": to_plain(Usage(image_tokens=0 if refusal else tokens)),
            "pending": {},
            "results": [],
            "outcome": ended("out_of_budget", refusal) if refusal else {},
        }

    def think(self, state: RunState, runtime: Runtime[RunContext]) -> Plain:
        """Sample one turn and read what it asks for."""
        context, usage = runtime.context, Usage(**state["usage"])
        spent = context.budget.spent(usage)
        if context.should_stop():
            return {"outcome": ended("cancelled", CANCELLED)}
        if spent:
            return {"outcome": ended("out_of_budget", spent)}
        start = time.monotonic()
        try:
            sample = self._sample(state, context, usage, start)
        except (ModelError, InputError) as error:
            return {"outcome": ended("error", str(error))}
        seconds, tokens = time.monotonic() - start, count_tokens(sample)
        used = replace(
            usage, turns=usage.turns + 1, policy_tokens=usage.policy_tokens + tokens, seconds=usage.seconds + seconds
        )
        thought, update = _reading(sample, context, used)
        step = Step(kind="think", text=thought, tokens=tokens, seconds=seconds)
        context.emit(StepDone(step=step))
        return {**update, "steps": more([to_plain(step)]), "usage": to_plain(used), "results": []}

    def act(self, state: RunState, runtime: Runtime[RunContext]) -> Plain:
        """Run the pending calls in order; every call gets a result, also one that is not run any more."""
        context, usage = runtime.context, Usage(**state["usage"])
        runner = ToolRunner(reasoner=self.reasoner, store=self.store, observe_image=self.observe_image)
        images = [image_from(plain) for plain in state["images"]]
        first_id = sum(message["role"] == "tool" for message in state["messages"])
        results: list[Plain] = []
        for number, plain in enumerate(state["pending"]["calls"]):
            call_id, call = f"call_{first_id + number}", Call(**plain)
            refusal = _not_run(context, usage, number)
            if refusal:
                step = Step(kind="tool", text=refusal, tool=call.name, arguments=call.arguments, failed=True)
                done = Done(step=step, image=None, usage=usage)
            else:
                done = runner.run(call_id, call, images, context, usage)
            context.emit(StepDone(step=done.step))
            usage = done.usage
            images += [done.image] if done.image else []
            image = to_plain(done.image) if done.image else None
            results.append({"id": call_id, "step": to_plain(done.step), "image": image})
        outcome = ended("cancelled", CANCELLED) if context.should_stop() else {}
        return {"results": results, "usage": to_plain(usage), "outcome": outcome}

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
            messages.append(observation_message(result["id"], step.tool or "error", text, step.image))
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
        exchange = exchange_of(state, outcome, added_steps=len(steps))
        return {
            "outcome": outcome,
            "steps": more([to_plain(step) for step in steps]),
            "exchanges": more([exchange]),
            "pending": {},
        }

    def _sample(self, state: RunState, context: RunContext, usage: Usage, start: float) -> Sample:
        deadline = start + context.budget.seconds - usage.seconds
        return self.reasoner.sample(
            resolve(state["messages"], self.store.get),
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
    if context.keep_logprobs:
        message["logprobs"] = list(sample.logprobs)
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


def _malformed(state: RunState) -> Plain:
    """The result that tells the model why its turn could not be read."""
    call_id = f"call_{sum(message['role'] == 'tool' for message in state['messages'])}"
    step = Step(kind="error", text=state["pending"]["error"], failed=True)
    return {"id": call_id, "step": to_plain(step), "image": None}


def _best_so_far(state: RunState) -> str:
    """The last thought of this question that says something."""
    thoughts = [
        step["text"] for step in state["steps"][state["first_step"] :] if step["kind"] == "think" and step["text"]
    ]
    return thoughts[-1] if thoughts else ""
