"""One tool call: from what the model wrote to what it is shown.

The agent's side of a call is translation. Boxes become pixels of the image that the call names (an argument is a box
when the tool's schema gives it the format "box"); a new image is stored, numbered, paid for from the image budget and
traced back to the user's picture it is a part of. Every failure is a step that the model reads.
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from foveate.agent.boxes import holds_box, with_boxes
from foveate.agent.images import ImageStore, StoredImages, box_to_pixels, crop_record, picture_record
from foveate.agent.messages import Call, clean_text, image_label
from foveate.agent.records import ImageRecord, Step, Usage
from foveate.agent.state import RunContext
from foveate.errors import ImageError, ModelError, ToolArgumentError, ToolError
from foveate.models.reasoner import Reasoner
from foveate.pictures import open_picture
from foveate.tools.python import shortened
from foveate.tools.schema import is_number
from foveate.tools.tool import Tool, ToolCall, ToolResult, perform

LONGEST_TEXT = 100_000
"""Characters of what a tool returns; of more, the head and the tail."""
MOST_MADE_PX = 300_000_000
"""Pixels of all crops and drawings of a conversation, some 0.9 GB: one of many pixels costs no more image tokens."""


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
        """Make one call, in the time that the budget leaves; `images` are the records of all images so far.

        Never raises for what model or tool did.
        """
        start = time.monotonic()
        result = self._perform(call_id, call, images, context.tools, context.budget.seconds - usage.seconds)
        text, failed, record, tokens = shortened(clean_text(result.text), LONGEST_TEXT), result.failed, None, 0
        if result.image is not None:
            try:
                record, tokens = self._received(result, result.image, images, context, usage)
            except (ImageError, ModelError, ToolError) as error:
                text, failed = f"{text}\nthe image is not shown: {error}".strip(), True
            else:
                label = image_label(len(images))
                text = text if label in text.split("\n") else f"{text}\n{label}".strip()
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

    def _perform(
        self, call_id: str, call: Call, images: Sequence[ImageRecord], tools: Sequence[Tool], seconds: float
    ) -> ToolResult:
        tool = next((tool for tool in tools if tool.name == call.name), None)
        try:
            call = with_source(call, images)
            arguments = self._in_pixels(call, tool, images) if tool else call.arguments
        except ToolArgumentError as error:
            return ToolResult(text=f"{call.name}: {error}", failed=True)
        pictures = StoredImages(self.store, [record.sha256 for record in images])
        asked = ToolCall(id=call_id, name=call.name, arguments=deepcopy(arguments))  # which the tool may change
        return perform(tools, asked, pictures, seconds=seconds)

    def _in_pixels(self, call: Call, tool: Tool, images: Sequence[ImageRecord]) -> dict[str, Any]:
        """The arguments with each box in pixels of the image that the argument "image" names, or its default, or 0.

        What is no number is left to the tool's schema. Raises ToolArgumentError for a number of no image.
        """
        properties = tool.parameters["properties"]
        number = call.arguments.get("image")
        if number is None:
            number = properties.get("image", {}).get("default", 0)
        given = (properties.get(name, {}) for name, value in call.arguments.items() if value is not None)
        if not any(map(holds_box, given)) or not is_number(number):
            return call.arguments
        if number not in range(len(images)):
            wanted = f"give a number from 0 to {len(images) - 1}" if images else "there is no image yet"
            raise ToolArgumentError(f"image is {number}; {wanted}")
        number = int(number)
        size_px = (images[number].width_px, images[number].height_px)
        seen_px = self.reasoner.seen_size(*size_px)
        space = call.box_space or self.reasoner.dialect.box_space

        def in_pixels(box: Any) -> list[float]:
            return list(box_to_pixels(box, size_px, space, seen_px))

        return {name: with_boxes(value, properties.get(name, {}), in_pixels) for name, value in call.arguments.items()}

    def _received(
        self,
        result: ToolResult,
        image: Image.Image,
        images: Sequence[ImageRecord],
        context: RunContext,
        usage: Usage,
    ) -> tuple[ImageRecord, int]:
        """Store a new image, upright and RGB as the user's are: its record and its tokens.

        Raises ImageError, ModelError or ToolError for one that is not shown.
        """
        shown = open_picture(image)
        shown = self.observe_image(shown) if self.observe_image else shown
        tokens = self.reasoner.image_tokens(shown.width, shown.height)
        refusal = context.budget.refuses_image(usage, tokens)
        if refusal:
            raise ToolError(refusal)
        source = result.source_idx
        if source is not None and source not in range(len(images)):
            raise ToolError(f"it is said to be a part of image {source}, wanted one of the {len(images)} so far")
        made = sum(record.width_px * record.height_px for record in images if record.is_crop or record.drawn)
        if made + shown.width * shown.height > MOST_MADE_PX:
            raise ToolError(f"all crops and drawings would have more than {MOST_MADE_PX:,} pixels; make a smaller one")
        sha256, size_px = self.store.put(shown), (shown.width, shown.height)
        if source is not None and result.box_px is not None:
            left, top, right, bottom = map(float, result.box_px)  # a checkpoint takes no numbers of NumPy
            return crop_record(images[source], (left, top, right, bottom), sha256, size_px), tokens
        return picture_record(sha256, size_px, drawn=True), tokens


def with_source(call: Call, images: Sequence[ImageRecord]) -> Call:
    """The call with the number of the image that it means by the order of the crops.

    Raises ToolArgumentError when there are fewer.
    """
    if call.observation is None:
        return call
    made = [number for number, record in enumerate(images) if record.is_crop]
    if not 1 <= call.observation <= len(made):
        raise ToolArgumentError(f"there is no observation_{call.observation}; there are {len(made)} so far, from 1")
    return replace(call, arguments={**call.arguments, "image": made[call.observation - 1]}, observation=None)
