"""One tool call: from what the model wrote to what it is shown.

The agent's side of a call is translation. Boxes become pixels of the image that the call names (an argument is a box
when the tool's schema gives it the format "box"); a new image is stored, numbered, paid for from the image budget and
traced back to the user's picture it is a part of. Every failure is a step that the model reads.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from foveate.agent.images import ImageStore, StoredImages, box_to_pixels, crop_record, picture_record
from foveate.agent.messages import Call, clean_text, image_label
from foveate.agent.records import ImageRecord, Step, Usage
from foveate.agent.state import RunContext
from foveate.errors import ToolArgumentError
from foveate.models.reasoner import Reasoner
from foveate.tools.tool import Tool, ToolCall, ToolResult, perform


@dataclass(frozen=True, kw_only=True)
class Done:
    """A call that was made."""

    step: Step
    image: ImageRecord | None
    usage: Usage
    """What the question has used with this call."""


@dataclass(frozen=True, kw_only=True)
class ToolRunner:
    """Makes calls for one conversation after the other."""

    reasoner: Reasoner
    store: ImageStore
    observe_image: Callable[[Image.Image], Image.Image] | None

    def run(self, call_id: str, call: Call, images: Sequence[ImageRecord], context: RunContext, usage: Usage) -> Done:
        """Make one call; `images` are the records of all images so far. Never raises for what model or tool did."""
        start = time.monotonic()
        result = self._perform(call_id, call, images, context.tools)
        record, text, failed, tokens = self._received(result, images, context, usage)
        seconds = time.monotonic() - start
        step = Step(
            kind="tool",
            text=text,
            tool=call.name,
            arguments=call.arguments,
            box_px=record.box_px if record and result.box_px else None,
            image=record.sha256 if record else None,
            source=record.original if record and result.box_px else None,
            seconds=seconds,
            failed=failed,
        )
        used = replace(
            usage,
            tool_calls=usage.tool_calls + 1,
            image_tokens=usage.image_tokens + tokens,
            seconds=usage.seconds + seconds,
        )
        return Done(step=step, image=record, usage=used)

    def _perform(self, call_id: str, call: Call, images: Sequence[ImageRecord], tools: Sequence[Tool]) -> ToolResult:
        tool = next((tool for tool in tools if tool.name == call.name), None)
        try:
            arguments = self._in_pixels(call, tool, images) if tool else call.arguments
        except ToolArgumentError as error:
            return ToolResult(text=f"{call.name}: {error}", failed=True)
        pictures = StoredImages(self.store, [record.sha256 for record in images])
        return perform(tools, ToolCall(id=call_id, name=call.name, arguments=arguments), pictures)

    def _in_pixels(self, call: Call, tool: Tool, images: Sequence[ImageRecord]) -> dict[str, Any]:
        """The arguments with each box in pixels of the image that the call names; a wrong image is left to the tool."""
        number = call.arguments.get("image", 0)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(images):
            return call.arguments
        size_px = (images[number].width_px, images[number].height_px)
        seen_px = self.reasoner.seen_size(*size_px)
        space = call.box_space or self.reasoner.dialect.box_space
        properties = tool.parameters["properties"]
        return {
            name: list(box_to_pixels(value, size_px, space, seen_px))
            if properties.get(name, {}).get("format") == "box"
            else value
            for name, value in call.arguments.items()
        }

    def _received(
        self, result: ToolResult, images: Sequence[ImageRecord], context: RunContext, usage: Usage
    ) -> tuple[ImageRecord | None, str, bool, int]:
        """Record of the new image, text for the model, whether the call failed, and tokens of the image."""
        text = clean_text(result.text)
        if result.image is None:
            return None, text, result.failed, 0
        shown = self.observe_image(result.image) if self.observe_image else result.image
        tokens = self.reasoner.image_tokens(shown.width, shown.height)
        refusal = context.budget.refuses_image(usage, tokens)
        if refusal:
            return None, f"the image is not shown: {refusal}", True, 0
        sha256, size_px = self.store.put(shown), (shown.width, shown.height)
        if result.source_idx is not None and result.box_px is not None:
            record = crop_record(images[result.source_idx], result.box_px, sha256, size_px)
        else:
            record = picture_record(sha256, size_px)
        label = image_label(len(images))
        return record, text if label in text else f"{text}\n{label}".strip(), result.failed, tokens
