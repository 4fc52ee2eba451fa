"""The objectives are the formulas of their papers, and only what the policy wrote carries a gradient.

Proved: PMD's gradient is the paper's ascent direction, at the reference and away from it, and its partition form is tau
log Z and goes to the mean; at the token level it is the formula's on both sides of the clip; GRPO and RLOO at the
sampling policy are REINFORCE with their baselines, and what is old counts no more than the most; equal rewards give no
gradient; a group's order and its neighbours do not matter; the first DPO loss is log 2 and each form its formula;
length rewards of hand-made groups; log-probabilities of a rollout are those of the trainer, of text alone, with
crops and of two images;
hidden states that precede no token of the policy get no gradient.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from pictures import noise
from PIL import Image
from played import BUDGET, jobs
from torch import Tensor

from foveate.models import Thinker, ThinkerReasoner
from foveate.models.transcript import pack
from foveate.rl import logprobs as module
from foveate.rl.dpo import DpoConfig, Side, dpo_loss
from foveate.rl.groups import group_log_mean_exp, group_mean, group_std, leave_one_out_mean
from foveate.rl.grpo import MOST_RATIO, GrpoConfig, grpo_loss, grpo_targets, rloo_loss, rloo_targets
from foveate.rl.length import LengthPenalty, length_rewards
from foveate.rl.logprobs import choices, conversation_of, summed, written_logprobs
from foveate.rl.pmd import PmdConfig, pmd_loss, pmd_targets
from foveate.rl.rollout import rollouts
from foveate.rl.trainable import LoraConfig, make_trainable

GROUPS = torch.tensor([0, 1, 0, 0, 1, 1, 2, 2])
REWARDS = torch.tensor([1.0, 0.0, 0.3, -0.5, 1.0, 1.0, 0.2, 0.9])
LENGTHS = torch.tensor([3, 1, 4, 2, 5, 2, 1, 3])
SAMPLE = torch.repeat_interleave(torch.arange(8), LENGTHS)

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def with_pmd(config: PmdConfig) -> Loss:
    def loss(logprobs: Tensor, sampled: Tensor, sample: Tensor, rewards: Tensor, groups: Tensor) -> Tensor:
        return pmd_loss(logprobs, sampled, sample, pmd_targets(rewards, groups, config), config)

    return loss


def with_grpo(logprobs: Tensor, sampled: Tensor, sample: Tensor, rewards: Tensor, groups: Tensor) -> Tensor:
    return grpo_loss(logprobs, sampled, sample, grpo_targets(rewards, groups, GrpoConfig()), GrpoConfig())


def with_rloo(logprobs: Tensor, sampled: Tensor, sample: Tensor, rewards: Tensor, groups: Tensor) -> Tensor:
    return rloo_loss(logprobs, sampled, sample, rloo_targets(rewards, groups))


LOSSES: dict[str, Loss] = {
    "pmd": with_pmd(PmdConfig(tau=0.3)),
    "pmd partition": with_pmd(PmdConfig(tau=0.3, baseline="partition")),
    "pmd token": with_pmd(PmdConfig(tau=0.3, level="token")),
    "grpo": with_grpo,
    "rloo": with_rloo,
}


def tokens(seed: int) -> Tensor:
    return -torch.rand(int(LENGTHS.sum()), generator=torch.Generator().manual_seed(seed)) * 3


def gradient(loss: Loss, logprobs: Tensor, sampled: Tensor, rewards: Tensor = REWARDS) -> Tensor:
    leaf = logprobs.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, sampled, SAMPLE, rewards, GROUPS), leaf)[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_pmd_follows_the_papers_ascent_direction(seed: int) -> None:
    tau, sampled = 0.3, tokens(1)
    logprobs = tokens(seed).requires_grad_()
    sums, old = summed(logprobs, SAMPLE, 8), summed(sampled, SAMPLE, 8)
    means = torch.tensor([REWARDS[group == GROUPS].mean() for group in GROUPS])
    ascent = (sums * (REWARDS - means) - tau / 2 * (sums - old).square()).mean()
    wanted = torch.autograd.grad(ascent, logprobs)[0]
    torch.testing.assert_close(gradient(LOSSES["pmd"], logprobs.detach(), sampled), -wanted)


def test_the_partition_form_is_tau_log_z_and_goes_to_the_mean() -> None:
    got = 0.3 * group_log_mean_exp(REWARDS / 0.3, GROUPS)
    for group in range(3):
        rewards = REWARDS[group == GROUPS].double()
        wanted = 0.3 * math.log(float((rewards / 0.3).exp().mean()))
        assert got[group == GROUPS].tolist() == pytest.approx([wanted] * len(rewards), rel=1e-5)
    far = 1e3 * group_log_mean_exp(REWARDS / 1e3, GROUPS)
    torch.testing.assert_close(far, group_mean(REWARDS, GROUPS), atol=1e-3, rtol=0)
    assert torch.isfinite(group_log_mean_exp(REWARDS * 1e4, GROUPS)).all()


@pytest.mark.parametrize(
    ("name", "baseline", "scale"),
    [
        ("pmd", group_mean, 1.0),
        ("rloo", leave_one_out_mean, 1.0),
        ("pmd token", group_mean, 8 / int(LENGTHS.sum())),
    ],
)
def test_at_the_sampling_policy_each_is_reinforce_with_its_baseline(
    name: str, baseline: Callable[[Tensor, Tensor], Tensor], scale: float
) -> None:
    got = gradient(LOSSES[name], tokens(1), tokens(1))
    torch.testing.assert_close(got, -scale * (REWARDS - baseline(REWARDS, GROUPS))[SAMPLE] / 8)


def test_token_level_pmd_clips_each_ratio_and_pulls_back() -> None:
    ratios, targets, sample = (0.5, 1.2, 2.0, 0.9), (0.6, 0.6, -0.4, -0.4), torch.tensor([0, 0, 1, 1])
    config = PmdConfig(tau=0.3, level="token", clip=(0.8, 1.28))
    logprobs = (torch.tensor(ratios).log() - 1).requires_grad_()
    loss = pmd_loss(logprobs, torch.full((4,), -1.0), sample, torch.tensor([0.6, -0.4]), config)
    gains = [0.8 * 0.6, 1.2 * 0.6, 1.28 * -0.4, 0.9 * -0.4]
    pulls = [0.3 * math.log(ratio) ** 2 for ratio in ratios]
    assert float(loss.detach()) == pytest.approx(-(sum(gains) - sum(pulls)) / 4, rel=1e-5)
    inside = (False, True, False, True)  # no gradient through a clipped ratio, on either side
    slopes = [
        ratio * target * free - 2 * 0.3 * math.log(ratio)
        for ratio, target, free in zip(ratios, targets, inside, strict=True)
    ]
    got = torch.autograd.grad(loss, logprobs)[0].tolist()
    assert got == pytest.approx([-slope / 4 for slope in slopes], rel=1e-5)


def test_grpo_divides_by_the_spread_and_clips() -> None:
    advantages = (REWARDS - group_mean(REWARDS, GROUPS)) / (group_std(REWARDS, GROUPS) + 1e-4)
    got = gradient(LOSSES["grpo"], tokens(1), tokens(1))
    torch.testing.assert_close(got, -advantages[SAMPLE] / int(LENGTHS.sum()))
    moved = gradient(LOSSES["grpo"], tokens(1) + 0.5, tokens(1))  # every ratio is 1.65, above the clip
    assert (moved[advantages[SAMPLE] > 0] == 0).all()
    assert (moved[advantages[SAMPLE] < 0] > 0).all()


def test_grpo_without_a_scale_leaves_what_is_small_small() -> None:
    lengths, right, one = torch.tensor([88, 89, 90, 91]), torch.tensor([True] * 4), torch.zeros(4, dtype=torch.long)
    rewards = 1 + length_rewards(lengths, right, one, least_spread=0.2)
    plain = grpo_targets(rewards, one, GrpoConfig(scale="none"))
    torch.testing.assert_close(plain, rewards - rewards.mean())
    assert plain.abs().max() < 0.1
    assert grpo_targets(rewards, one, GrpoConfig()).abs().max() > 1.3


def test_a_sample_of_old_weights_counts_no_more_than_the_most() -> None:
    far = gradient(LOSSES["rloo"], tokens(1) + 40.0, tokens(1))
    at_hand = gradient(LOSSES["rloo"], tokens(1), tokens(1))
    torch.testing.assert_close(far, MOST_RATIO * at_hand)
    near = gradient(LOSSES["rloo"], tokens(1) + 0.1, tokens(1))
    torch.testing.assert_close(near, (0.1 * LENGTHS).exp()[SAMPLE] * at_hand)
    assert gradient(LOSSES["rloo"], tokens(1) - 40.0, tokens(1)).abs().max() < 1e-12


def test_the_others_mean_leaves_oneself_out() -> None:
    assert leave_one_out_mean(REWARDS, GROUPS).tolist() == pytest.approx([-0.1, 1, 0.25, 0.65, 0.5, 0.5, 0.9, 0.2])
    assert leave_one_out_mean(torch.tensor([3.0]), torch.tensor([0])).tolist() == [3.0]


@pytest.mark.parametrize("name", LOSSES)
def test_equal_rewards_give_no_gradient(name: str) -> None:
    got = gradient(LOSSES[name], tokens(1), tokens(1), torch.full((8,), 0.7))
    torch.testing.assert_close(got, torch.zeros_like(got), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_neither_order_nor_neighbours_matter(name: str) -> None:
    loss, logprobs, sampled = LOSSES[name], tokens(2), tokens(1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    places = torch.cat([torch.nonzero(sample == SAMPLE)[:, 0] for sample in order])
    renamed = torch.repeat_interleave(torch.arange(8), LENGTHS[order])
    whole = loss(logprobs, sampled, SAMPLE, REWARDS, GROUPS)
    turned = loss(logprobs[places], sampled[places], renamed, REWARDS[order], GROUPS[order])
    torch.testing.assert_close(turned, whole)


def side(policy: list[float], reference: list[float]) -> Side:
    return Side(policy_B=torch.tensor(policy), reference_B=torch.tensor(reference), tokens_B=torch.tensor([4.0, 10.0]))


def test_the_first_dpo_loss_is_log_2() -> None:
    chosen, rejected = side([-3.0, -5.0], [-3.0, -5.0]), side([-8.0, -1.0], [-8.0, -1.0])
    assert float(dpo_loss(chosen, rejected, DpoConfig())) == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo", "robust", "mpo"])
def test_each_form_of_dpo_is_its_formula(loss: Any) -> None:
    chosen, rejected = side([-3.0, -5.0], [-4.0, -4.5]), side([-8.0, -1.0], [-6.0, -2.0])
    config = DpoConfig(loss=loss, beta=0.5, **({"label_noise": 0.2} if loss == "robust" else {}))
    pairs = [(1.0, -2.0, 4.0, -3.0), (-0.5, 1.0, 10.0, -5.0)]  # gains, tokens, log pi of the chosen

    def logsig(x: float) -> float:
        return -math.log1p(math.exp(-x))

    middle = 0.5 * (1.0 - 2.0 - 0.5 + 1.0) / 4
    wanted = 0.0
    for good, bad, count, chosen_logprob in pairs:
        margin = 0.5 * (good - bad)
        wanted += {
            "sigmoid": -logsig(margin),
            "hinge": max(0.0, 1 - margin),
            "ipo": ((good - bad) / count - 1.0) ** 2,
            "robust": (0.2 * logsig(-margin) - 0.8 * logsig(margin)) / 0.6,
            "mpo": -0.8 * logsig(margin)
            - 0.2 * (logsig(0.5 * good - middle) + logsig(middle - 0.5 * bad))
            - chosen_logprob / count,
        }[loss] / 2
    assert float(dpo_loss(chosen, rejected, config)) == pytest.approx(wanted, rel=1e-5)


def test_length_rewards_of_hand_made_groups() -> None:
    lengths = torch.tensor([10, 20, 30, 7, 7, 5, 15])
    right = torch.tensor([True, True, False, True, False, False, True])
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert length_rewards(lengths, right, groups).tolist() == [0.5, 0.0, -0.5, 0.0, 0.0, 0.0, -0.5]
    few = length_rewards(torch.tensor([98, 102, 50, 150]), torch.tensor([True] * 4), torch.tensor([0, 0, 1, 1]), 0.2)
    assert few.tolist() == pytest.approx([0.1, -0.1, 0.5, -0.5])
    penalty = LengthPenalty(weight=0.4, warmup_iterations=2)
    assert [penalty.at(iteration) for iteration in range(4)] == [0.0, 0.0, 0.4, 0.4]


def conversation(
    turns: int, thinker: Thinker, pictures: Sequence[Image.Image] = (noise(150, 90),)
) -> tuple[list[dict[str, Any]], list[float]]:
    """A question with pictures and, after each sampled turn, a crop, or text where there is no picture.

    With the log-probabilities at sampling.
    """
    reasoner = ThinkerReasoner(thinker, num_slots=2)
    shown = [{"type": "image", "image": picture} for picture in pictures]
    messages: list[dict[str, Any]] = [{"role": "user", "content": [*shown, {"type": "text", "text": "What?"}]}]
    logprobs: list[float] = []
    for turn in range(turns):
        sample = reasoner.sample(messages, max_new_tokens=9, temperature=1.0, seed=turn)
        logprobs += sample.logprobs
        messages.append({"role": "assistant", "content": sample.text, "token_ids": list(sample.token_ids)})
        crop = {"type": "image", "image": noise(64 + 32 * turn, 80, turn + 1)}
        said = [{"type": "text", "text": "image 1"}]
        messages.append({"role": "tool", "content": [*said, crop] if pictures else said})
    return messages, logprobs


def test_log_probabilities_of_a_rollout_are_those_of_the_trainer(thinker: Thinker) -> None:
    pictures = ((), (noise(150, 90),), (noise(150, 90), noise(96, 128, 7)))
    made = [conversation(turns, thinker, shown) for turns, shown in zip((2, 3, 1), pictures, strict=True)]
    transcript = pack([thinker.processor(messages) for messages, _ in made])
    got = written_logprobs(thinker, transcript)
    conversation_S = conversation_of(transcript)
    for idx, (_, logprobs) in enumerate(made):
        torch.testing.assert_close(got[conversation_S == idx], torch.tensor(logprobs), atol=1e-5, rtol=0)


def test_only_what_the_policy_wrote_carries_a_gradient(thinker: Thinker) -> None:
    transcript = thinker.processor(conversation(2, thinker)[0])
    hidden = thinker.hidden(transcript)[0].detach().requires_grad_()
    logprobs, ids = choices(thinker, hidden, transcript)
    gradient = torch.autograd.grad(logprobs.gather(-1, ids[:, None]).sum(), hidden)[0]
    before_policy = torch.cat([transcript.by_policy_T[1:], torch.zeros(1, dtype=torch.bool)])
    assert torch.equal(gradient.abs().sum(-1) > 0, before_policy)


def test_parts_and_recomputed_blocks_give_the_same_gradient(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of log-probabilities that are computed some at a time, and of a decoder that keeps what goes into its blocks."""
    with rollouts(thinker, at_once=2, budget=BUDGET) as playing:
        transcript = pack([one.transcript for one in playing.play(jobs(4))])
    gradients = []
    for rows, recompute in ((10_000, False), (7, False), (10_000, True), (7, True)):
        monkeypatch.setattr(module, "AT_ONCE", rows * thinker.config.decoder.vocab_size)
        learning = deepcopy(thinker)
        make_trainable(learning, LoraConfig(), tower=False, recompute=recompute)
        kept: list[int] = []

        def keep(x: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            written_S = written_logprobs(learning, transcript)
        assert written_S.shape == (int(transcript.by_policy_T.sum()),)
        written_S.square().sum().backward()
        gradients.append((sum(kept), {name: p.grad for name, p in learning.named_parameters() if p.grad is not None}))
    (whole, wanted), (parted, _), (recomputed, _), (both, _) = gradients
    assert parted < whole
    assert both < recomputed < whole
    for _, given in gradients[1:]:
        for name, gradient in wanted.items():
            assert float((given[name] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-6, name
