"""Claim: with the native operations a step of nano's training takes less time than in plain PyTorch."""

from collections.abc import Iterator

from foveate.benchmarks.measure import SETS, WITHOUT, Case, plainly
from foveate.models.checkpoint import nano_path
from foveate.rl.optimizer import MasterOptimizer, OptimizerConfig
from foveate.rl.sft import SftConfig, SftStage

TOKENS = 4800
SMALL = 1e-6
"""Learning rate: the weights stay what they are, nearly."""


def cases() -> Iterator[Case]:
    """Loss, gradients and update of nano on conversations of its training, in the dtype trained in here."""
    config = SftConfig(
        tokenizer=str(nano_path() / "tokenizer.json"), start=str(nano_path()), tokens_per_batch=TOKENS,
        gaze_coef=0.5, brought_coef=0.5, dense_coef=0.8, max_questions=2, max_exercises=4,
    )  # fmt: skip
    stage = SftStage(config, 0, "cpu")
    batches = [stage.batch(number) for number in range(SETS)]
    optimizer = MasterOptimizer(stage.module, OptimizerConfig())
    dtype = next(stage.module.parameters()).dtype

    def ours(number: int) -> None:
        stage.loss(batches[number])[0].backward()
        optimizer.step(SMALL)

    yield Case(
        op="nano_train_step",
        shape=f"{TOKENS} tokens, forward, backward and update",
        dtype=str(dtype).removeprefix("torch."),
        differ=True,
        ours=ours,
        peers={WITHOUT: plainly(ours)},
    )
