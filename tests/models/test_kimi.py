"""Kimi-VL in its published form gives the tokens, pixels, logits and text of the code it comes from.

Proved for a tiny random configuration against transformers' kimi_k25 with one frame: logits within 1e-3 in f32 with
several pictures, with text alone and for a pack of conversations, in bf16 at most 1.5 times as far off; 64 greedy
tokens, over the cache of latents; two conversations at once, and a later turn over a past. Text is cut as the published
pattern cuts it, by hand, and the tiktoken vocabulary equals byte-pair encoding by its definition. Pictures are shrunk
to the limit of patches, never enlarged, and padded with black.
"""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import kimi
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import image, noise, text
from torch import nn

from foveate.errors import ImageError, InputError
from foveate.models import Thinker, ThinkerReasoner, engine
from foveate.models.image import image_grid
from foveate.models.published.tiktoken import CUTS, tiktoken_tokenizer
from foveate.models.transcript import pack

pytestmark = pytest.mark.usefixtures("quiet")

Messages = list[dict[str, Any]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    folder = tmp_path_factory.mktemp("kimi")
    return kimi.save(folder), folder


@pytest.fixture(scope="module")
def thinker(saved: tuple[nn.Module, Path]) -> Thinker:
    return Thinker.from_pretrained(saved[1])


CONVERSATIONS: list[Messages] = [
    [{"role": "user", "content": "What is 6 times 7?"}],
    [{"role": "user", "content": [image(150, 90, 1), text("What is in the image?")]}],
    [
        {"role": "user", "content": [image(333, 222, 2), text(" the total:"), image(20, 400, 3), text("ééé\n")]},
        {"role": "assistant", "content": "It is 42."},
        {"role": "user", "content": [text("and here?"), image(640, 480, 4)]},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_logits(saved: tuple[nn.Module, Path], thinker: Thinker, messages: Messages) -> None:
    inputs = thinker.processor(messages)
    wanted = kimi.logits(saved[0], inputs.token_ids, inputs.images)
    torch.testing.assert_close(thinker(inputs), wanted, rtol=1e-3, atol=1e-3)


def test_bf16_is_as_near_as_transformers(saved: tuple[nn.Module, Path]) -> None:
    half = Thinker.from_pretrained(saved[1], dtype=torch.bfloat16)
    inputs = half.processor(CONVERSATIONS[1])
    exact = kimi.logits(saved[0], inputs.token_ids, inputs.images)
    theirs = kimi.logits(deepcopy(saved[0]).bfloat16(), inputs.token_ids, inputs.images)
    error = (theirs.float() - exact).abs().mean()
    assert (half(inputs).float() - exact).abs().mean() <= 1.5 * error


@pytest.fixture(scope="module")
def greedy(saved: tuple[nn.Module, Path], thinker: Thinker) -> list[tuple[int, ...]]:
    """What transformers says, token by token, the whole conversation anew each time."""
    codec, spoken = thinker.processor.codec, []
    for messages in CONVERSATIONS:
        inputs, said = thinker.processor(messages, generate=True), list[int]()
        while len(said) < 64 and (not said or said[-1] not in codec.ends):
            ids = torch.cat([inputs.token_ids, torch.tensor(said, dtype=torch.long)])
            logits = kimi.logits(saved[0], ids, inputs.images)[-1]
            said.append(int(logits.index_fill(0, torch.tensor(codec.never_sampled), -torch.inf).argmax()))
        spoken.append(tuple(said))
    return spoken


@pytest.mark.parametrize("prefill", [engine.PREFILL, 13], ids=["whole", "in parts"])
def test_greedy_tokens_over_the_cache_of_latents(
    thinker: Thinker, greedy: list[tuple[int, ...]], prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PREFILL", prefill)
    for messages, wanted in zip(CONVERSATIONS, greedy, strict=True):
        assert thinker.generate(messages, max_new_tokens=64).token_ids == wanted


def test_a_pack_gives_what_each_gives_alone(saved: tuple[nn.Module, Path], thinker: Thinker) -> None:
    inputs = [thinker.processor(messages) for messages in CONVERSATIONS]
    wanted = [kimi.logits(saved[0], each.token_ids, each.images) for each in inputs]
    torch.testing.assert_close(thinker(pack(inputs)), torch.cat(wanted), rtol=1e-3, atol=1e-3)


def test_two_conversations_at_once_and_a_later_turn(thinker: Thinker) -> None:
    reasoner = ThinkerReasoner(thinker, num_slots=2)
    alone = [thinker.generate(messages, max_new_tokens=16) for messages in CONVERSATIONS[:2]]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda m: reasoner.sample(m, max_new_tokens=16), CONVERSATIONS[:2]))
    assert [sample.token_ids for sample in together] == [sample.token_ids for sample in alone]
    turn = {"role": "assistant", "content": alone[1].text, "token_ids": list(alone[1].token_ids)}
    later = [*CONVERSATIONS[1], turn, {"role": "user", "content": "why?"}]
    assert reasoner.sample(later, max_new_tokens=16).token_ids == thinker.generate(later, max_new_tokens=16).token_ids


def test_the_bias_that_chooses_experts_keeps_its_dtype(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    half = Thinker.from_pretrained(saved[1], dtype=torch.bfloat16)
    half.save_pretrained(tmp_path, dtype=torch.bfloat16)
    for thinker in (half, Thinker.from_pretrained(tmp_path)):
        kept = {name for name, parameter in thinker.named_parameters() if parameter.dtype != torch.bfloat16}
        assert kept
        assert all(name.endswith("correction_bias") for name in kept)


def test_the_folder_comes_back(saved: tuple[nn.Module, Path], thinker: Thinker, tmp_path: Path) -> None:
    thinker.save_pretrained(tmp_path)
    again = Thinker.from_pretrained(tmp_path)
    inputs = again.processor(CONVERSATIONS[1])
    assert torch.equal(again(inputs), thinker(inputs))
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in saved[1].iterdir()}


def test_a_side_without_places_is_refused(thinker: Thinker) -> None:
    """As the published processor refuses it: 512 patches."""
    image = replace(thinker.config.image, max_pixels=4096 * 14**2)
    assert image_grid(510 * 14, 28, thinker.config.vision, image).w == 510
    with pytest.raises(ImageError, match="picture is 7168 x 28 px, wanted sides below 7168 px"):
        image_grid(512 * 14, 28, thinker.config.vision, image)


def test_a_smallest_number_of_pixels_is_not_for_this_family(thinker: Thinker) -> None:
    part = {"type": "image", "image": noise(60, 40), "min_pixels": 50_000}
    with pytest.raises(InputError, match="wanted no min_pixels"):
        thinker.processor([{"role": "user", "content": [part]}])


@pytest.mark.parametrize("size_px", [(150, 90), (640, 480), (28, 56), (20, 400)])
def test_pixels(thinker: Thinker, size_px: tuple[int, int]) -> None:
    picture = noise(*size_px)
    (made,) = thinker.processor([{"role": "user", "content": [{"type": "image", "image": picture}]}]).images
    patches = (size_px[0] // 14) * (size_px[1] // 14)
    if patches > 400:
        picture = picture.resize(tuple(int(side * (400 / patches) ** 0.5) for side in size_px), 3)
    rows, columns = (-(-side // 28) * 2 for side in (picture.height, picture.width))
    canvas = np.zeros((rows * 14, columns * 14, 3), dtype=np.float32)
    canvas[: picture.height, : picture.width] = np.asarray(picture)
    assert (made.grid.h, made.grid.w) == (rows, columns)
    got = kimi.raster(made.patches_NP, rows, columns).view(rows, columns, 3, 14, 14).permute(0, 3, 1, 4, 2)
    wanted = torch.from_numpy((canvas / 255 - 0.5) / 0.5)
    torch.testing.assert_close(got.reshape(wanted.shape), wanted, rtol=0, atol=1e-6)


@given(st.text(alphabet=st.sampled_from("the asist42 Éß漢字カ\n\t.,'sT!\u0301"), max_size=40))
def test_the_vocabulary_is_byte_pair_encoding(written: str) -> None:
    assert TOKENIZER.encode(written).ids == kimi.encoded(written, CUTS)


@pytest.mark.parametrize(
    "words",
    [
        ["Hello", " World's", " i", "Phone", " ABCdef", " ", "123", "456", "7"],
        ["漢字", "カタ", " abc", "漢字", "Def", "漢", "'ll"],
        ["  \n\n", " x", "\t", " y", "  "],
        ["don't", " WE'LL", " E\u0300cole", " '", "sky"],
        ["a", ",", " b", "!!\r\n", "c", "\n", "   ", " d"],
        ["ǅabc", " ñandú", "99", " x", "²", "\u3000あ", "-dash", " --", "42", "."],
    ],
)
def test_text_is_cut_into_words(words: list[str]) -> None:
    written = "".join(words)
    cut = TOKENIZER.pre_tokenizer.pre_tokenize_str(written)
    assert [written[start:end] for _, (start, end) in cut] == words


@pytest.fixture(autouse=True, scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> None:
    global TOKENIZER  # noqa: PLW0603 - hypothesis takes no fixture of a function's scope
    path = tmp_path_factory.mktemp("ranks") / "tiktoken.model"
    kimi.write_ranks(path)
    TOKENIZER = tiktoken_tokenizer(path, {})
