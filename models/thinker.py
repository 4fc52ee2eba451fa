"""The thinker: a vision tower and a decoder that see pictures and words as one sequence.

Shape letters: T tokens, N patches, P values of a patch, M image tokens, D decoder width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import ConfigError
from foveate.models.attend import PackedAttend, Watch
from foveate.models.chat import Chat
from foveate.models.config import ThinkerConfig
from foveate.models.decoder import Decoder
from foveate.models.image import Grid
from foveate.models.processor import Processor
from foveate.models.reasoner import Message, Rounding, Sample
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import ImageInput, Transcript, image_rows
from foveate.models.vision import VisionTower
from foveate.ops import Packing


class Thinker(nn.Module):
    """A vision-language model with mixture-of-experts layers; see ThinkerConfig for what it can be."""

    def __init__(self, config: ThinkerConfig, codec: TextCodec, chat: Chat | None = None) -> None:
        """`chat` lays out conversations; nano's form when None."""
        super().__init__()
        self.config = config
        self.origin: Path | None = None
        """The folder of a published checkpoint, whose files beside the weights belong to it."""
        self.processor = Processor(config, codec, chat)
        self.vision = VisionTower(config.vision, config.decoder.hidden_size)
        self.decoder = Decoder(config.decoder)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: torch.dtype | None = None, rounding: Rounding | None = None
    ) -> "Thinker":
        """Load a checkpoint folder, in the file's dtype when None. Raises CheckpointError naming file and key.

        `path` may be "nano" or a name on the hub, see foveate.models.snapshot.

        With a rounding the decoder's linear layers and experts are rounded, see foveate.models.quantize.
        """
        from foveate.models.checkpoint import convert, load_thinker
        from foveate.models.snapshot import checkpoint_folder

        if rounding not in (None, *get_args(Rounding)):
            raise ConfigError(f"rounding is {rounding!r}, wanted None or one of {', '.join(get_args(Rounding))}")
        folder = checkpoint_folder(path)
        thinker = load_thinker(folder, None if rounding else dtype, rounding)
        if rounding:
            convert(thinker, dtype)  # only now: before, it would copy what rounding leaves in its file
        return thinker

    def save_pretrained(
        self, path: str | Path, *, dtype: torch.dtype | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write config.json, model.safetensors (in `dtype`, or as it is) and tokenizer.json, each atomically.

        `weights` by name in place of its own: those of a thinker with adapters, for instance.
        """
        from foveate.models.checkpoint import save_thinker

        save_thinker(self, Path(path), dtype, weights)

    def forward(self, inputs: Transcript) -> Tensor:
        """Logits [T, V] of one or several packed conversations."""
        hidden_TD, _ = self.hidden(inputs)
        logits: Tensor = self.decoder.head(hidden_TD)
        return logits

    def hidden(
        self, inputs: Transcript, seen_MD: Tensor | None = None, watch: Watch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [T, D] before the head, and the load-balancing loss; `seen_MD` as in `embed`."""
        attend = PackedAttend(Packing(list(inputs.lengths)), watch)
        x_TD = self.embed(inputs.token_ids, inputs.images, inputs.image_starts, seen_MD)
        hidden: tuple[Tensor, Tensor] = self.decoder(x_TD, inputs.positions_3T, attend)
        return hidden

    def embed(
        self, token_ids_T: Tensor, images: Sequence[ImageInput], starts: Sequence[int], seen_MD: Tensor | None = None
    ) -> Tensor:
        """Embeddings [T, D] with each image's tokens put in from its start; `seen_MD` if the tower has run already.

        Wider when the tower also gives what is added behind the decoder's first layers, which for text is nothing.
        """
        if images and seen_MD is None:
            seen_MD = self.vision(*self.patches(images), self.decoder.embeddings())
        return self.put_in(token_ids_T, image_rows(images, starts), seen_MD)

    def put_in(self, token_ids_T: Tensor, rows_M: Tensor, seen_MD: Tensor | None) -> Tensor:
        """Embeddings [T, D] with what the tower saw in these rows; see `embed`."""
        x_TD = self.decoder.embed_text(token_ids_T)
        if seen_MD is None or not len(rows_M):
            return x_TD
        x_TD = F.pad(x_TD, (0, seen_MD.shape[1] - x_TD.shape[1]))
        return x_TD.index_copy(0, rows_M.to(x_TD.device), seen_MD)

    def patches(self, images: Sequence[ImageInput]) -> tuple[Tensor, list[Grid]]:
        """What the tower takes: the patches [N, P] of all images in its dtype and on its device, and their grids."""
        patches_NP = torch.cat([image.patches_NP for image in images])
        return patches_NP.to(self.decoder.embed.weight), [image.grid for image in images]

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Sample:
        """Continue a conversation by one assistant turn; see `foveate.models.generate` for batches and streaming.

        Raises InputError when the model's context cannot hold `max_new_tokens` more.
        """
        from foveate.models.generate import ThinkerReasoner

        reasoner = ThinkerReasoner(self, num_slots=1, shortens=False)
        return reasoner.sample(messages, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
