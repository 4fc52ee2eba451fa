"""Muon's steps are orthogonal and of the promised size; the schedule holds, then falls."""

import pytest
import torch
from torch import nn

from foveate.rl.optimizer import MUON_RMS, MasterOptimizer, OptimizerConfig, learning_rate, orthogonalise


def test_singular_values_come_near_one_and_vectors_stay() -> None:
    torch.manual_seed(0)
    for shape in ((3, 32, 48), (2, 64, 16), (2, 16, 64)):
        matrices = torch.randn(*shape)
        result = orthogonalise(matrices).float()
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.5
        assert values.max() < 1.3
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        assert (torch.nn.functional.cosine_similarity(result.flatten(1), (u @ vh).flatten(1)) > 0.95).all()


class Net(nn.Module):
    """A stack of matrices inside a block and a head outside."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ParameterList([torch.zeros(4, 48, 32)])
        self.head = nn.Linear(32, 8)


def test_matrices_of_blocks_take_steps_of_one_size_whatever_the_gradient() -> None:
    net = Net()
    optimizer = MasterOptimizer(net, OptimizerConfig(weight_decay=0.0))
    for scale in (1e-3, 10.0):
        before = net.blocks[0].detach().clone()
        net.blocks[0].grad = scale * torch.randn(4, 48, 32)
        optimizer.step(0.1)
        rms = (net.blocks[0].detach() - before).pow(2).mean().sqrt()
        assert 0.7 * MUON_RMS * 0.1 < rms < 1.2 * MUON_RMS * 0.1
    assert "momentum.blocks.0" in optimizer.state_tensors()
    assert "exp_avg.head.weight" in optimizer.state_tensors()
    assert "exp_avg.blocks.0" not in optimizer.state_tensors()


def test_steps_are_those_of_the_formulas() -> None:
    """Two steps with momentum and decay; a clipped gradient goes to AdamW, whose biases do not decay."""
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.blocks[0].normal_()
    config = OptimizerConfig(weight_decay=0.1, momentum=0.9, clip_norm=0.5)
    optimizer = MasterOptimizer(net, config)
    head = nn.Linear(32, 8)
    head.load_state_dict(net.head.state_dict())
    groups = [{"params": [head.weight], "weight_decay": 0.1}, {"params": [head.bias], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=config.betas)
    matrices, momentum = net.blocks[0].detach().clone(), torch.zeros(4, 48, 32)
    for _ in range(2):
        grads = [torch.randn_like(p) for p in (net.blocks[0], net.head.weight, net.head.bias)]
        for parameter, grad in zip((net.blocks[0], net.head.weight, net.head.bias), grads, strict=True):
            parameter.grad = grad.clone()
        norm = optimizer.step(0.01)
        assert abs(norm - float(torch.cat([grad.flatten() for grad in grads]).norm())) < 1e-3 * norm
        clipped, head.weight.grad, head.bias.grad = (grad * 0.5 / norm for grad in grads)
        adamw.step()
        momentum = momentum.lerp(clipped, 0.1)
        step = orthogonalise(clipped.lerp(momentum, 0.9)).float() * MUON_RMS * 48**0.5
        matrices = matrices * (1 - 0.01 * 0.1) - 0.01 * step
    torch.testing.assert_close(net.blocks[0].detach(), matrices, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(net.head.weight, head.weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(net.head.bias, head.bias, rtol=1e-3, atol=1e-5)
    optimizer.reset()
    assert not any(name.startswith("exp_avg") for name in optimizer.state_tensors())
    assert not optimizer.state_tensors()["momentum.blocks.0"].any()


def test_small_steps_add_up_where_the_weights_are_bf16() -> None:
    """Each is a hundredth of what a weight of 1 can change by: the masters are not rounded."""
    net = nn.Linear(4, 4, bias=False).bfloat16()
    with torch.no_grad():
        net.weight.fill_(1.0)
    optimizer = MasterOptimizer(net, OptimizerConfig(muon=False, weight_decay=0.0))
    for step in range(1, 101):
        net.weight.grad = torch.ones(4, 4, dtype=torch.bfloat16)
        optimizer.step(2**-7 / 100)
        assert bool((net.weight == 1.0).all()) == (step < 20) or 20 <= step < 60
    torch.testing.assert_close(net.weight.float(), torch.full((4, 4), 1 - 2**-7))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    net = Net()
    optimizer = MasterOptimizer(net, OptimizerConfig())
    net.blocks[0].grad = torch.full((4, 48, 32), float("nan"))
    optimizer.step(0.1)
    assert (net.blocks[0] == 0).all()
    assert all(master.grad is None for master in optimizer.masters.values())  # as large as they are


def test_the_rate_is_held_until_the_cosine_starts() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, decay_steps=20, final_lr_fraction=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[10:81] == [1.0] * 71
    assert 0.99 < rates[81] < 1.0
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert abs(rates[99] - 0.1) < 1e-9
    falling = OptimizerConfig(lr=1.0, warmup_steps=0, decay_steps=3, final_lr_fraction=0.1)
    assert [round(learning_rate(falling, step, 7), 3) for step in range(7)] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.55, 0.1]
    assert [learning_rate(OptimizerConfig(warmup_steps=0), 0, 1)] == [OptimizerConfig().lr]
    assert rates[:80] == [learning_rate(config, step, 200) for step in range(80)]


def first_steps(module: nn.Module) -> dict[str, torch.Tensor]:
    """What one step with random gradients adds to each parameter."""
    optimizer = MasterOptimizer(module, OptimizerConfig(weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step(1.0)
    return {name: p.detach() - before[name] for name, p in module.named_parameters()}


def test_convolutions_are_one_matrix_and_gates_with_their_up_projections_two() -> None:
    module = nn.Module()
    module.stem = nn.Conv2d(4, 6, kernel_size=3)
    module.blocks = nn.ModuleDict({"gate_up": nn.Linear(8, 32, bias=False)})
    steps = first_steps(module)
    gate, up = steps["blocks.gate_up.weight"].chunk(2)
    for matrix in (steps["stem.weight"].flatten(1), gate, up):
        values = torch.linalg.svdvals(matrix / (MUON_RMS * max(matrix.shape) ** 0.5))
        assert 0.5 < values.min() < values.max() < 1.3


@pytest.mark.parametrize("rank", [1, 5])
def test_what_an_adapter_takes_in_for_gates_is_one_matrix_of_any_rank(rank: int) -> None:
    adapter = {"lora_A": nn.Linear(8, rank, bias=False), "lora_B": nn.Linear(rank, 32, bias=False)}
    module = nn.Module()
    module.blocks = nn.ModuleDict({"gate_up": nn.ModuleDict(adapter)})
    steps = first_steps(module)
    gate, up = steps["blocks.gate_up.lora_B.weight"].chunk(2)
    for matrix in (steps["blocks.gate_up.lora_A.weight"], gate, up):
        values = torch.linalg.svdvals(matrix / (MUON_RMS * max(matrix.shape) ** 0.5))
        assert 0.5 < values.min() <= values.max() < 1.3
