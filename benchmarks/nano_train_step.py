"""Claim: with the native operations a step of nano's training takes less time than in plain PyTorch."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from foveate.benchmarks.measure import SETS, Case
from foveate.models.checkpoint import nano_path
from foveate.ops import plain_pytorch
from foveate.rl.sft import SftConfig, SftStage

T = TypeVar("T")

TOKENS = 4800


def cases() -> Iterator[Case]:
    """Loss and gradients of nano on conversations of its training, in the dtype that this processor trains in."""
    config = SftConfig(
        tokenizer=str(nano_path() / "tokenizer.json"), start=str(nano_path()), tokens_per_batch=TOKENS,
        gaze_coef=0.5, brought_coef=0.5, dense_coef=0.8, max_questions=2, max_exercises=4,
    )  # fmt: skip
    stage = SftStage(config, 0, "cpu")
    batches = [stage.batch(number) for number in range(SETS)]
    dtype = next(stage.module.parameters()).dtype

    def ours(number: int) -> None:
        stage.loss(batches[number])[0].backward()
        stage.module.zero_grad(set_to_none=True)

    yield Case(
        op="nano_train_step",
        shape=f"{TOKENS} tokens, without the optimizer",
        dtype=str(dtype).removeprefix("torch."),
        ours=ours,
        peers={"torch": plainly(ours)},
    )


def plainly(run: Callable[[int], T]) -> Callable[[int], T]:
    """The same in plain PyTorch."""

    def plain(number: int) -> T:
        with plain_pytorch():
            return run(number)

    return plain
