"""Stages 2 and 3: supervised conversations, pages to read and the oracle's trajectories on drawn scenes.

L = - sum over tokens that the policy wrote of log pi(token | everything before it) / their number, plus the experts'
load-balancing loss, plus dense_coef times the dense loss on what lies under each image token (rl/lessons/dense.py),
plus gaze_coef and brought_coef times the losses on where heads look and what they bring (rl/lessons/look_losses.py).
Questions, observations, images and templates are context and carry no loss.

Shape letters: T tokens, M image tokens, D decoder width, V vocabulary, S supervised tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import ConfigError
from foveate.models.config import ThinkerConfig, preset
from foveate.models.image import Grid
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import ImageInput, Transcript, build_transcript, image_rows, pack, without_patches
from foveate.models.vision import VisionTower
from foveate.ops import compute_dtype
from foveate.paths import expanded
from foveate.rl.lessons.demonstrators import Demonstrators, demonstrated
from foveate.rl.lessons.dense import Chances, DenseHeads, DenseLabels, spoken_loss
from foveate.rl.lessons.look_losses import brought_loss, characters_as_tokens, gaze_loss, searches
from foveate.rl.lessons.looks import Targets, aimed, looks, watched_heads
from foveate.rl.lessons.mishaps import failing
from foveate.rl.lessons.oracle_messages import (
    Conversation,
    aim_exercises,
    count_conversations,
    flag_exercise,
    mark_exercises,
    page_conversation,
    scene_conversation,
)
from foveate.rl.lessons.pages import Page, PageWriter, corpus_words, crop_page
from foveate.rl.lessons.recall import recall_conversation
from foveate.rl.lessons.spelling import Spelling
from foveate.rl.lessons.views import ViewLabels, draw_sheet, label_view, nameless, page_drawing
from foveate.rl.limits import NOT_NEGATIVE, SHARE, at_least, check
from foveate.rl.logprobs import choices
from foveate.rl.rounds import difficulty_at, drawing_seed
from foveate.rl.start import TOKEN_HEADS, VISION, load_part, read_tensors
from foveate.rl.tasks.scene import FAMILIES, Drawing, Scene, draw_scene
from foveate.rl.writing import replaced

ROUND_TOKENS = 128
ROUND_PATCHES = 256
MOST_EXERCISES = 11
"""On a page."""
MOST_OF_CROP = 8
"""On a crop that is read like a page."""
MOST_SOUGHT = 24
"""Things of a sheet that are asked for."""
LOOKS = ("first_look", "second_look", "third_look")
"""The losses of the watched layers in the metrics."""
Watched = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values of a layer."""
TOGETHER = 12
"""Conversations whose looks a GPU takes in one call."""
HEADS_FILE = "token_heads.safetensors"
"""Where the readouts of the image tokens are kept between stages."""
SMALLEST_PAGE = 12
"""Blocks of the first pages of a run that starts easy."""
SHARES = ("page_share", "sheet_share", "recall_share", "mishap_share")
NOT_BELOW_ZERO = ("recall_steps", "ramp_steps", "gaze_coef", "brought_coef", "dense_coef", "max_exercises")
COUNTS = ("tokens_per_batch", "max_questions")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Settings of a supervised stage."""

    tokenizer: str = "models/nano/weights/tokenizer.json"
    preset: str = "nano"
    start: str = ""
    """A checkpoint folder, or a tower.safetensors of stage 1; empty for random weights."""
    freeze_tower: bool = False
    """Whether the tower stays as it is up to its projector: less work while the decoder learns to look."""
    tokens_per_batch: int = 4096
    page_share: float = 0.15
    """Share of the conversations about a picture that are reading exercises."""
    sheet_share: float = 0.0
    """Share of those that are about a sheet of named things: where are they."""
    recall_share: float = 0.0
    """Share of the conversations that are without a picture: what belongs to a name of a list."""
    recall_steps: int = 0
    """For this many first batches all of them are: copying comes first, and a list costs a tenth of a picture."""
    page_blocks: int = 150
    ramp_steps: int = 0
    """Over this many batches pages grow from a line to page_blocks, sheets from a thing to many, lists from a name."""
    families: tuple[str, ...] = field(default=FAMILIES)
    max_questions: int = 4
    gaze_coef: float = 0.0
    """Weight of the loss on where some heads look; 0 for none."""
    brought_coef: float = 0.0
    """Weight of the loss on what a head that reads would bring of every image token; 0 for none. It needs gaze_coef."""
    dense_coef: float = 0.0
    """Weight of the dense loss on the image tokens; 0 for none."""
    max_exercises: int = 0
    """Most named things of a scene that are asked for before the scene's own questions."""
    mishap_share: float = 0.0
    """Share of the questions that need a computation or a search in which it fails (rl/lessons/mishaps.py)."""
    demonstrators: Demonstrators = field(default_factory=Demonstrators)
    """Who answers a scene's questions; the oracle unless some of their habits are wanted."""

    def __post_init__(self) -> None:
        check(self, "stage.", **dict.fromkeys(SHARES, SHARE), **dict.fromkeys(NOT_BELOW_ZERO, NOT_NEGATIVE))
        if self.page_share + self.sheet_share > 1:
            raise ConfigError(
                f"stage.page_share is {self.page_share} and stage.sheet_share {self.sheet_share}; wanted a sum of at "
                "most 1, of which scenes get the rest"
            )
        check(self, "stage.", **dict.fromkeys(COUNTS, at_least(1)), page_blocks=at_least(SMALLEST_PAGE))
        if not self.families or set(self.families) - set(FAMILIES):
            raise ConfigError(f"stage.families is {list(self.families)}, wanted some of {', '.join(FAMILIES)}")
        if self.brought_coef and not self.gaze_coef:
            raise ConfigError(f"brought_coef is {self.brought_coef} and gaze_coef 0; wanted both, or brought_coef 0")


@dataclass(frozen=True, kw_only=True)
class SftBatch:
    """Packed conversations, and what lies under the patches of their images when that is asked too."""

    transcript: Transcript
    """Its images have no patches of their own."""
    patches_NP: Tensor
    """Those of all images, in the dtype that the model computes in."""
    labels: DenseLabels | None
    targets: tuple[Targets, Targets]
    """What the first watched layer is asked for, and what the others are."""

    def pin_memory(self) -> "SftBatch":
        """The same with patches where a GPU can fetch them by itself; a DataLoader calls it."""
        return replace(self, patches_NP=self.patches_NP.pin_memory())


class Learner(nn.Module):
    """A thinker, and the readouts of its image tokens that are thrown away after training."""

    def __init__(self, thinker: Thinker, *, dense: bool) -> None:
        super().__init__()
        self.thinker = thinker
        vision, width = thinker.config.vision, thinker.config.decoder.hidden_size
        self.token_heads = DenseHeads(vision, width, vision.merge_size**2) if dense else None


class SftStage:
    """The stage as the training loop takes it."""

    def __init__(self, config: SftConfig, seed: int, device: str) -> None:
        self.config, self.seed = config, seed
        self.dtype = compute_dtype(device)
        torch.manual_seed(seed)
        self.module = starting_point(config).to(device, self.dtype).train()
        self.thinker = self.module.thinker
        if config.freeze_tower:
            freeze_tower(self.thinker.vision)
        self.processor = self.thinker.processor
        self.writer = PageWriter("train", corpus_words())
        moe = self.thinker.config.decoder.moe
        middle = self.thinker.config.decoder.num_layers // 2
        self.gaze_layers = (middle, middle + 1, middle + 2)
        self.reads_blocks = config.brought_coef > 0
        self.token_of_class = characters_as_tokens(self.processor.codec)
        self.balance_coef = moe.balance_coef if moe else 0.0

    def batch(self, index: int) -> SftBatch:
        """Conversations about freshly drawn pages and pictures, packed up to the token budget."""
        rng = random.Random(drawing_seed(self.seed, index))
        config, codec = self.thinker.config, self.processor.codec
        transcripts: list[Transcript] = []
        labels: list[ViewLabels] = []
        asked: list[tuple[Targets, Targets]] = []
        while sum(map(len, transcripts)) < self.config.tokens_per_batch:
            for drawing, conversation in self._draw(rng, index):
                if not conversation.messages:  # a page or sheet on which every text or thing is there twice
                    continue
                before = sum(map(len, transcripts))
                transcripts.append(self.processor(conversation.messages))
                if self.config.gaze_coef and drawing is not None:
                    first, second = looks(drawing, conversation, transcripts[-1], codec, config)
                    asked.append((first.shifted(before, len(labels)), second.shifted(before, len(labels))))
                if drawing is not None and (self.config.gaze_coef or self.config.dense_coef):
                    labels += self._labels(conversation, drawing)
        last = filler(transcripts, self.thinker.config, self.processor.codec.image_pad)
        packed = pack([*transcripts, last])
        patches_NP = torch.cat([image.patches_NP for image in packed.images]).to(self.dtype)
        return SftBatch(
            transcript=without_patches(packed),
            patches_NP=patches_NP,
            labels=DenseLabels.of(labels, config.vision, codec).padded(len(patches_NP)) if labels else None,
            targets=(Targets.joined(first for first, _ in asked), Targets.joined(second for _, second in asked)),
        )

    def _draw(self, rng: random.Random, index: int) -> list[tuple[Drawing | Scene | None, Conversation]]:
        """Conversations and what they are about, of a kind drawn by the shares."""
        difficulty = difficulty_at(index, self.config.ramp_steps)
        if index < self.config.recall_steps or rng.random() < self.config.recall_share:
            return [(None, recall_conversation(rng, self.writer.words, difficulty))]
        kind = rng.random()
        if kind < self.config.page_share:
            return [self._page(rng, difficulty)]
        if kind < self.config.page_share + self.config.sheet_share:
            return [self._sheet(rng, difficulty)]
        return self._scene(rng)

    def _labels(self, conversation: Conversation, drawing: Drawing | Scene) -> list[ViewLabels]:
        """What lies under each image of a conversation; what stands on a page without marks has no names."""
        seen = [label_view(drawing, box, self.thinker.config) for box in conversation.boxes]
        return seen if drawing.marks else list(map(nameless, seen))

    def _page(self, rng: random.Random, difficulty: float) -> tuple[Drawing, Conversation]:
        max_blocks = round(SMALLEST_PAGE + difficulty * (self.config.page_blocks - SMALLEST_PAGE))
        page = self.writer.page(rng, max_blocks=max_blocks, difficulty=difficulty)
        while not page.lines:
            page = self.writer.page(rng, max_blocks=max_blocks, difficulty=difficulty)
        return self._reading(page, rng, 1 + round(difficulty * MOST_EXERCISES))

    def _reading(self, page: Page, rng: random.Random, most: int) -> tuple[Drawing, Conversation]:
        return page_drawing(page), page_conversation(page, rng, rng.randint(-(-most // 2), most))

    def _sheet(self, rng: random.Random, difficulty: float) -> tuple[Drawing, Conversation]:
        sheet = draw_sheet(rng, difficulty)
        exercises = mark_exercises(sheet.marks, sheet.image.size, rng, rng.randint(MOST_SOUGHT // 2, MOST_SOUGHT))
        return sheet, scene_conversation(sheet.image, (), [*flag_exercise(sheet.marks), *exercises])

    def _scene(self, rng: random.Random) -> list[tuple[Drawing | Scene | None, Conversation]]:
        """Some of a scene's questions, the first turns of the others, and its crops by themselves.

        One that holds text is read like a page, in each that holds small things they are counted.
        """
        scene = draw_scene(rng.choice(self.config.families), rng.getrandbits(40), "train")
        count = min(len(scene.questions), rng.randint(1, self.config.max_questions))
        exercises = mark_exercises(scene.marks, scene.image.size, rng, rng.randint(0, self.config.max_exercises))
        questions = [demonstrated(question, self.config.demonstrators, rng) for question in scene.questions]
        if self.config.mishap_share:
            questions = [failing(q, rng) if rng.random() < self.config.mishap_share else q for q in questions]
        asked = rng.sample(questions, count)
        rest = [question for question in questions if question not in asked]
        exercises += aim_exercises(rest, scene.image.size)
        conversation = scene_conversation(scene.image, asked, exercises)
        drawn: list[tuple[Drawing | Scene | None, Conversation]] = [(scene, conversation)]
        crops = conversation.boxes[1:]
        page = crop_page(scene.image, scene.glyphs, rng.choice(crops)) if crops else None
        if page is not None and page.lines:
            drawn.append(self._reading(page, rng, MOST_OF_CROP))
        return [*drawn, *((scene, counting) for counting in count_conversations(scene))]

    def loss(self, batch: SftBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See the module's docstring."""
        transcript, vision = batch.transcript, self.thinker.vision
        device, grids = self.thinker.decoder.embed.weight.device, [image.grid for image in transcript.images]
        patches_NP = batch.patches_NP.to(device, self.dtype, non_blocking=True)
        tokens_MD = vision.tokens(patches_NP, grids)
        chances = Chances(vision, tokens_MD)
        seen_MD = vision.finish(tokens_MD, grids, self.thinker.decoder.embeddings())
        watched: list[Watched] = []

        def watch(layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> None:
            if self.config.gaze_coef and layer in self.gaze_layers:
                watched.append((q_THD, k_TGD, v_TGD))

        hidden_TD, balance = self.thinker.hidden(transcript, seen_MD, watch)
        logprobs_SV, wanted_S = choices(self.thinker, hidden_TD, transcript)
        loss = F.nll_loss(logprobs_SV, wanted_S)
        right = (logprobs_SV.detach().argmax(-1) == wanted_S).float().mean()
        metrics = {"nll": loss.detach(), "token_accuracy": right, "balance": balance.detach()}
        loss = loss + self.balance_coef * balance
        if batch.labels is None:
            return loss, metrics
        spelling = chances.settled(batch.labels.texts)
        looking, looked = self._looking(batch, spelling, watched)
        loss, metrics = loss + looking, metrics | looked
        if self.module.token_heads is None:
            return loss, metrics
        said, said_right = spoken_loss(vision, tokens_MD, spelling, batch.labels.named_MS)
        read, read_right = self.module.token_heads.loss(tokens_MD, batch.labels)
        return loss + self.config.dense_coef * (said + read), metrics | said_right | read_right

    def _looking(
        self, batch: SftBatch, spelling: Spelling, watched: Sequence[Watched]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses on where the watched layers look and on what they would bring, weighted, and their numbers."""
        transcript, device = batch.transcript, self.thinker.decoder.embed.weight.device
        loss, metrics = torch.zeros((), device=device), dict[str, Tensor]()
        rows_M = image_rows(transcript.images, transcript.image_starts)
        heads, together = watched_heads(self.thinker.config.decoder), TOGETHER if device.type == "cuda" else 1
        looks_of = [aimed(targets, spelling, rows_M, heads) for targets in batch.targets]
        first, second = ([s.to(device) for s in searches(some, transcript.lengths, together)] for some in looks_of)
        for name, (q_THD, k_TGD, _), asked in zip(LOOKS, watched, (first, second, second), strict=False):
            gaze = gaze_loss(q_THD, k_TGD, asked)
            loss = loss + self.config.gaze_coef * gaze
            metrics[name] = gaze.detach()
        rows_M = rows_M.to(device)
        for layer, (_, _, v_TGD) in list(zip(self.gaze_layers, watched, strict=False))[1:]:
            brought, accuracy = brought_loss(
                self.thinker.decoder, layer, v_TGD.index_select(0, rows_M), spelling.labels_MS, self.token_of_class
            )
            loss = loss + self.config.brought_coef * brought
            metrics |= {} if accuracy is None else {f"brought_{layer}": accuracy}
        return loss, metrics

    def weight(self, batch: SftBatch) -> float:
        """Supervised tokens: the loss is a mean over them."""
        return float(batch.transcript.by_policy_T.sum())

    def export(self, folder: Path) -> None:
        """Write a checkpoint folder, in bf16, that `foveate ask --model` takes, and beside it the readouts."""
        self.thinker.save_pretrained(folder, dtype=torch.bfloat16)
        if self.module.token_heads is not None:
            heads = self.module.token_heads.named_parameters()
            with replaced(folder / HEADS_FILE) as fresh:
                save_file({f"{TOKEN_HEADS}{name}": p.detach().contiguous() for name, p in heads}, fresh)


def filler(transcripts: Sequence[Transcript], config: ThinkerConfig, pad_id: int) -> Transcript:
    """A conversation without meaning that brings a batch to round numbers of tokens and patches.

    Matrix libraries compile a kernel for each new shape; round numbers recur. Nobody attends to it; it has no loss, but
    counts among the tokens whose experts are balanced.
    """
    merge = config.vision.merge_size
    num_patches = sum(image.grid.num_patches for t in transcripts for image in t.images)
    columns = -(num_patches + merge**2) % ROUND_PATCHES // merge + merge
    grid = Grid(t=1, h=merge, w=columns)
    patches_NP = torch.zeros(grid.num_patches, config.vision.patch_dim)
    num_tokens = grid.num_tokens(merge)
    image = ImageInput(key="filler", grid=grid, num_tokens=num_tokens, patches_NP=patches_NP)
    text = [pad_id] * (-(sum(map(len, transcripts)) + num_tokens) % ROUND_TOKENS)
    return build_transcript([(image, False), (text, False)], image_pad_id=pad_id, merge_size=merge)


def freeze_tower(vision: VisionTower) -> None:
    """Only the projector and the positions at the output go on learning."""
    for name, parameter in vision.named_parameters():
        parameter.requires_grad_(name.startswith(("merger.", "spellers.", "output_positions")))


def starting_point(config: SftConfig) -> Learner:
    """The thinker that training starts from, with readouts when they are asked.

    Raises ConfigError when `start` does not exist, or is of another model.
    """
    start, tensors = expanded(config.start), dict[str, Tensor]()
    if config.start and start.is_dir():
        thinker = Thinker.from_pretrained(start, dtype=torch.float32).requires_grad_(True)
        start = start / HEADS_FILE
        tensors = read_tensors(start) if start.exists() else {}
    else:
        thinker = Thinker(preset(config.preset), TextCodec.from_file(Path(config.tokenizer)))
        if config.start:
            tensors = read_tensors(start)
            load_part(thinker.vision, tensors, VISION, start)
    learner = Learner(thinker, dense=config.dense_coef > 0)
    if learner.token_heads is not None and any(name.startswith(TOKEN_HEADS) for name in tensors):
        load_part(learner.token_heads, tensors, TOKEN_HEADS, start)
    return learner
