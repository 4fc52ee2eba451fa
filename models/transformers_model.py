"""Any vision-language model of transformers as a reasoner, with our operations where they fit.

Its own processor lays out the conversation, so a turn that was sampled is encoded again from its text: unlike with the
thinker, transcripts are not token-exact. Text of users and tools never becomes a token of the tokenizer's own, that of
a system and of the model itself none of those that mark turns and pictures. One turn at a time.

Shape letters: T tokens, V vocabulary, S sampled tokens.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor, nn

from foveate.errors import CheckpointError, ImageError, InputError, ModelError, first_line, named_line
from foveate.extras import from_extra
from foveate.models.chat import Picture, SizedPicture, StoredPicture, VideoPart, checked_role, content_of
from foveate.models.files import read_ignoring_code, refuse_adapters
from foveate.models.hub import accelerate
from foveate.models.published.environment import asks_for_tools
from foveate.models.published.tokens import WRITTEN
from foveate.models.reasoner import OTHERS_TURN, RESPONSE, Dialect, Message, Sample, StopReason
from foveate.models.turn_text import Telling, before_others_turn, inert, tags_of, with_texts
from foveate.models.video import VideoAsked

KERNELS = ("attn_implementation", "experts_implementation")
"""What a config.json may ask of transformers that leads to code from the hub."""
PATIENCE_S = 0.1
"""How long a turn waits for the one before it until it asks whether it is still wanted."""
PLAIN_ROLES = {"system": "", "user": "User: ", "assistant": "Assistant: "}
"""What stands before a message where a model has no chat template."""


class TransformersReasoner:
    """See foveate.models.reasoner.Reasoner."""

    def __init__(self, model: Any, processor: Any, *, name: str = "transformers") -> None:
        """`model` and `processor` are transformers' own, the model's in evaluation mode.

        Raises CheckpointError when the processor's chat template is none.
        """
        self.model, self.processor, self.name = model, processor, name
        if processor.chat_template is None:  # some folders have it with their tokenizer alone
            processor.chat_template = processor.tokenizer.chat_template
        tokens = processor.tokenizer.added_tokens_decoder.values()
        self.tags = tags_of([*(token.content for token in tokens), OTHERS_TURN, OTHERS_TURN.replace("<", "</")])
        self.marks = tags_of((token.content for token in tokens if token.special), but=WRITTEN)
        source = processor.chat_template
        try:
            takes_tools = isinstance(source, str) and asks_for_tools(source)
        except TemplateError as error:
            raise CheckpointError(f"the chat template of {name} is not valid: {error}") from error
        self.dialect = Dialect(takes_tools=takes_tools)
        self.lock = threading.Lock()
        self._counted = lru_cache(maxsize=512)(self._image_tokens)  # each crop has a size of its own

    @classmethod
    def from_pretrained(
        cls, folder: Path, *, name: str = "transformers", dtype: torch.dtype | None = None
    ) -> "TransformersReasoner":
        """Load a folder; no code of its own is run and nothing is downloaded. Raises CheckpointError for what fails."""
        with from_extra("hub", "transformers"):
            from transformers import AutoModelForImageTextToText
        refuse_adapters(folder)
        for key, value in read_ignoring_code(folder / "config.json").items():
            names_one = not isinstance(value, bool | None)  # some files say that one was chosen by itself
            if names_one and key.lstrip("_").startswith(KERNELS):
                raise CheckpointError(f"{folder / 'config.json'} holds the key {key}, wanted none; remove it")
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            processor = _processor_of(folder, local).from_pretrained(folder, **local)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype or "auto", use_safetensors=True, **local
            )
        except Exception as error:  # configurations raise whatever checks their fields, and the rest what it likes
            raise CheckpointError(f"transformers cannot load {folder}: {first_line(error)}") from error
        accelerate(model)
        return cls(model.eval(), processor, name=name)

    def image_tokens(self, width_px: int, height_px: int) -> int:
        """Counted once for each size, on a grey picture. Raises ImageError for one that the processor refuses."""
        return self._counted(width_px, height_px)

    def _image_tokens(self, width_px: int, height_px: int) -> int:
        picture = {"type": "image", "image": Image.new("RGB", (width_px, height_px), (128, 128, 128))}
        try:
            ids = self._inputs([{"role": "user", "content": [picture, {"type": "text", "text": "."}]}])["input_ids"]
        except InputError as error:
            raise ImageError(str(error)) from error
        known = (getattr(self.model.config, name, None) for name in ("image_token_id", "image_token_index"))
        image_id = next((index for index in known if isinstance(index, int)), -1)
        return max(1, int(ids.eq(image_id).sum()))

    def seen_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Boxes are thousandths, whatever the size."""
        return width_px, height_px

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
        """See Reasoner. Raises InputError for a conversation that the processor refuses."""
        inputs = self._inputs(messages)
        watch = _Watch(self._text, on_text, should_stop)
        settings: dict[str, Any] = {"do_sample": temperature > 0, "num_beams": 1}  # of several, another's text is told
        if temperature > 0:
            settings["temperature"] = temperature
            if self.model.generation_config.top_k == 1:  # some families say so that they are greedy; who draws is not
                settings |= {"top_k": 0, "top_p": 1.0}
        prompt_tokens = inputs["input_ids"].shape[1]
        with own_turn(self.lock, should_stop) as granted:
            if not granted:
                return Sample(text="", token_ids=(), logprobs=(), stop_reason="cancelled", prompt_tokens=prompt_tokens)
            device = self.model.device
            drawing = [] if device.type == "cpu" else [device]
            with (
                torch.inference_mode(),
                torch.random.fork_rng(drawing, enabled=seed is not None, device_type=device.type),
            ):
                if seed is not None:
                    torch.manual_seed(seed + prompt_tokens)
                ids = self._generate(inputs, watch, max_new_tokens=max_new_tokens, **settings)
        kept = ids[: watch.kept]
        text = self._text(ids).partition(OTHERS_TURN)[0]
        watch.telling.whole(text)
        return Sample(
            text=text,
            token_ids=tuple(kept),
            logprobs=tuple(watch.logprobs[: len(kept)]),
            stop_reason=self._reason(ids, watch),
            prompt_tokens=prompt_tokens,
        )

    def _generate(self, inputs: dict[str, Tensor], watch: "_Watch", **settings: Any) -> list[int]:
        """The tokens of a turn. Raises ModelError for what the model cannot take, such as more than its positions."""
        from transformers import GenerationMixin

        try:
            with ExitStack() as hooks:
                modules: Iterable[nn.Module] = self.model.modules()
                for module in modules:  # BLIP-2 leaves sampling to a model inside it
                    if isinstance(module, GenerationMixin):
                        hooks.enter_context(module.register_forward_hook(watch.notice))
                out_1T: Tensor = self.model.generate(**inputs, **settings, stopping_criteria=[watch])
        except (IndexError, RuntimeError, ValueError) as error:
            raise ModelError(f"{self.name} failed while it sampled: {named_line(error)}") from error
        ids: list[int] = out_1T[0, watch.start :].tolist()
        return ids

    def _reason(self, ids: Sequence[int], watch: "_Watch") -> StopReason:
        if ids[-1] in self._ends() or watch.kept is not None:
            return "stop"
        return "cancelled" if watch.stopped else "length"

    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        return {ends} if isinstance(ends, int) else set(ends or ())

    def _text(self, ids: Sequence[int]) -> str:
        """Tags of calls may be special tokens of a family, so only what ends a turn is left out."""
        kept = [index for index in ids if index not in self._ends()]
        text: str = self.processor.tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def _inputs(self, messages: Sequence[Message]) -> dict[str, Tensor]:
        """Tensors of a conversation up to where the next turn begins. Raises InputError when it is refused."""
        turns = _merged([_turn(message, self.tags, self.marks) for message in messages])
        tools = next((message["tools"] for message in messages if message.get("tools")), None)
        tools = with_texts(tools, lambda text: inert(text, self.marks))
        try:
            if self.processor.chat_template is None:
                inputs: dict[str, Tensor] = self._without_template(turns)
            else:
                inputs = self.processor.apply_chat_template(
                    turns, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
                )
        except Exception as error:  # processors raise whatever they like, jinja's errors among it
            raise InputError(f"{self.name}: its processor refuses the conversation: {first_line(error)}") from error
        dtype, device = self.model.dtype, self.model.device
        return {
            key: value.to(device, dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for key, value in inputs.items()
        }

    def _without_template(self, turns: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Roles in words; where the pictures stand is left to the processor (BLIP-2 puts one before the text)."""
        parts = [part for turn in turns for part in turn["content"]]
        pictures = [part["image"] for part in parts if part["type"] == "image"]
        lines = [
            PLAIN_ROLES[turn["role"]] + "".join(part.get("text", "") for part in turn["content"]) for turn in turns
        ]
        inputs: dict[str, Tensor] = self.processor(
            images=pictures or None, text="\n".join([*lines, "Assistant:"]), return_tensors="pt"
        )
        return inputs


def pictures_alone(kind: type[Any]) -> type[Any]:
    """A class of transformers' processors without its part for videos, which wants torchvision."""

    class PicturesAlone(kind):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

    return PicturesAlone


@contextmanager
def own_turn(lock: threading.Lock, should_stop: Callable[[], bool] | None) -> Iterator[bool]:
    """Hold the lock inside the block, unless the wait for it is told to stop: then the block gets False."""
    while not (granted := lock.acquire(timeout=PATIENCE_S)):
        if should_stop is not None and should_stop():
            break
    try:
        yield granted
    finally:
        if granted:
            lock.release()


def _processor_of(folder: Path, local: dict[str, Any]) -> Any:
    """What loads a folder's processor; without torchvision one that would read videos with it reads pictures alone."""
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils.import_utils import is_torchvision_available

    load_config: Any = AutoConfig.from_pretrained
    kind: Any = PROCESSOR_MAPPING.get(type(load_config(folder, **local)), None)
    if is_torchvision_available() or kind is None or "video_processor" not in kind.get_attributes():
        return AutoProcessor
    return pictures_alone(kind)


def _merged(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role as one turn: some templates want user and assistant by turns."""
    merged: list[dict[str, Any]] = []
    for turn in turns:
        if merged and merged[-1]["role"] == turn["role"]:
            merged[-1]["content"] += [{"type": "text", "text": "\n"}, *turn["content"]]
        else:
            merged.append(turn)
    return merged


def _turn(message: Message, tags: re.Pattern[str], marks: re.Pattern[str]) -> dict[str, Any]:
    """A message as the templates take it; a tool's result stands in a user turn.

    `tags` are broken in the words of users and tools, `marks` in a system's and the model's own.
    """
    role = checked_role(message)
    parts: list[dict[str, Any]] = []
    for part in content_of(message):
        if isinstance(part, str):
            parts.append({"type": "text", "text": inert(part, tags if role in ("user", "tool") else marks)})
        else:
            parts.append(_seen(part))
    if role == "tool":
        opening, closing = RESPONSE
        parts = [{"type": "text", "text": opening}, *parts, {"type": "text", "text": closing}]
    return {"role": "user" if role == "tool" else role, "content": parts}


def _seen(part: Picture | VideoPart) -> dict[str, Any]:
    if isinstance(part, VideoPart):
        if part.asked != VideoAsked():
            raise InputError(
                "video part: transformers' processor has one way for all; leave out fps, nframes, min_ and max_pixels"
            )
        source = part.source
        return {"type": "video", "video": str(source) if isinstance(source, Path) else list(map(_shown, source))}
    if isinstance(part, SizedPicture):
        raise InputError(
            "image part: transformers' processor has one size for all; leave out min_pixels and max_pixels"
        )
    return {"type": "image", "image": _shown(part.image if isinstance(part, StoredPicture) else part)}


def _shown(picture: Image.Image | Path) -> Image.Image | str:
    return picture if isinstance(picture, Image.Image) else str(picture)


class _Watch:
    """Hands on text as it comes, notes log-probabilities, asks whether to stop; for transformers a stopping criterion.

    Of the logits, which transformers would keep all of (0.6 MB a token at 152,000 words), it holds those of one token.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        on_text: Callable[[str], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.decode, self.should_stop = decode, should_stop
        self.telling = Telling(on_text, mark=OTHERS_TURN)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        """The model's own, before whatever chooses a token."""
        self.logits_1V = torch.empty(0)
        self.start = 0
        """Where the turn begins in what transformers returns."""
        self.stopped = False
        self.kept: int | None = None
        """How many tokens stay of a turn that went on into somebody else's."""

    def notice(self, _module: Any, _args: Any, output: Any) -> None:
        """Called after every forward pass of what samples."""
        self.logits_1V = output.logits[:, -1].to(torch.float32, copy=True)  # a view would hold those of the prompt

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: Any) -> Tensor:
        """Asked after every token."""
        if not self.ids:
            self.start = input_ids.shape[1] - 1
        self.ids.append(int(input_ids[0, -1]))
        self.logprobs.append(float(self.logits_1V[0].log_softmax(-1)[self.ids[-1]]))
        self.kept = before_others_turn(self.ids, self.decode)
        if self.telling.on_text is not None and self.kept is None:
            self.telling.so_far(self.decode(self.ids))
        self.stopped = self.stopped or (self.should_stop is not None and self.should_stop())
        ends = self.stopped or self.kept is not None
        return torch.full((len(input_ids),), ends, dtype=torch.bool, device=input_ids.device)
