"""The choice of experts equals plain PyTorch; it is the same code on every instruction set.

Proved: the same experts, weights and scores, with softmax and sigmoids, a bias, groups, and no norm; gradients of
weights and of scores at most twice as far from f64 as plain PyTorch's; opcheck; equal bits with 1, 2 and 5 threads; a
NaN stays with its token, whose experts still differ; the first among equals; no token; what does not fit is named.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from needs import needs_native
from torch import Tensor

from foveate import ops
from foveate.ops import route
from references import assert_as_exact_as_torch, draw

WAYS: dict[str, dict[str, Any]] = {
    "softmax": {"top_k": 2},
    "not normed": {"top_k": 3, "normed": False, "scale": 2.5},
    "sigmoid": {"top_k": 6, "sigmoid": True, "scale": 2.446},
    "biased": {"top_k": 4, "sigmoid": True, "bias_E": draw((24,), torch.float32, 7) * 0.3},
    "groups": {"top_k": 4, "sigmoid": True, "bias_E": draw((24,), torch.float32, 8) * 0.3, "groups": (6, 2)},
    "groups of one": {"top_k": 3, "groups": (24, 5)},
    "all": {"top_k": 24},
}
Routed = tuple[Tensor, Tensor, Tensor]


def ways(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)(test)


def plain(logits: Tensor, way: dict[str, Any]) -> Routed:
    with ops.plain_pytorch():
        return route(logits, **way)


@ways
@pytest.mark.parametrize("num_tokens", [0, 1, 37])
def test_it_equals_plain_pytorch(num_tokens: int, way: dict[str, Any]) -> None:
    logits = draw((num_tokens, 24), torch.float32, 1) * 2
    experts, weights, scores = route(logits, **way)
    same, plainly, plain_scores = plain(logits, way)
    _, exactly, exact_scores = plain(logits.double(), way)
    assert torch.equal(experts, same)
    assert_as_exact_as_torch(weights, plainly, exactly)
    assert_as_exact_as_torch(scores, plain_scores, exact_scores)


def gradients(run: Callable[[Tensor], Routed], logits: Tensor, which: tuple[int, ...]) -> Tensor:
    """Of a weighted sum of the weights, the scores or both."""
    leaf = logits.clone().requires_grad_()
    out = run(leaf)
    parts = [(out[i] * draw(tuple(out[i].shape), torch.float32, 9 + i).to(out[i].dtype)).sum() for i in which]
    return torch.autograd.grad(torch.stack(parts).sum(), leaf)[0]


@ways
@pytest.mark.parametrize("which", [(1,), (2,), (1, 2)])
def test_gradients_are_as_exact(which: tuple[int, ...], way: dict[str, Any]) -> None:
    logits = draw((37, 24), torch.float32, 1) * 2
    assert_as_exact_as_torch(
        gradients(lambda x: route(x, **way), logits, which),
        gradients(lambda x: plain(x, way), logits, which),
        gradients(lambda x: plain(x, way), logits.double(), which),
    )


@pytest.mark.parametrize("way", ["softmax", "not normed", "biased"])
def test_gradcheck_of_plain_pytorch(way: str) -> None:
    logits = draw((3, 24), torch.float64, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: route(x, **WAYS[way])[1:], (logits,))


@ways
def test_nan_stays_with_its_token_and_its_experts_differ(way: dict[str, Any]) -> None:
    logits = draw((3, 24), torch.float32, 1)
    alone = route(logits, **way)
    logits[1, 5] = float("nan")
    logits[2] = float("nan")
    experts, weights, scores = route(logits, **way)
    assert torch.equal(experts[0], alone[0][0])
    assert torch.equal(weights[0], alone[1][0])
    assert torch.equal(scores.isnan(), plain(logits, way)[2].isnan())
    assert torch.equal(weights.isnan(), plain(logits, way)[1].isnan())
    assert [len(set(chosen)) for chosen in experts.tolist()] == [way["top_k"]] * 3
    num_groups, top_groups = way.get("groups", (1, 1))
    for chosen in experts.tolist():
        assert len({expert * num_groups // 24 for expert in chosen}) <= top_groups


@needs_native
def test_the_first_among_equals() -> None:
    assert route(torch.zeros(1, 8), 3)[0].tolist() == [[0, 1, 2]]
    assert route(torch.zeros(1, 8), 3, groups=(4, 2))[0].tolist() == [[0, 1, 2]]


@needs_native
@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_no_bit() -> None:
    logits, runs = draw((3000, 64), torch.float32, 1), []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append([*route(logits, 6), gradients(lambda x: route(x, 6), logits, (1, 2))])
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))


@needs_native
def test_opcheck() -> None:
    check, own = torch.library.opcheck, torch.ops.foveate
    logits = draw((5, 12), torch.float32, 1).requires_grad_()
    check(own.moe_route.default, (logits, None, 3, False, True, 1.0, 1, 1))
    check(own.moe_route.default, (logits, torch.rand(12), 3, True, False, 2.5, 4, 2))
    experts, weights, scores = (x.detach() for x in route(logits, 3))
    check(own.moe_route_backward.default, (weights, None, experts, scores, False, True, 1.0))
    check(own.moe_route_backward.default, (weights, scores, experts, scores, True, False, 2.5))


@needs_native
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top_k": 0}, "top_k must be from 1 to 12, got 0"),
        ({"top_k": 7, "groups": (4, 2)}, "top_k must be from 1 to 6, got 7"),
        ({"groups": (5, 2)}, "groups must divide 12 experts and be no fewer than top_groups, got 5 and 2"),
        ({"groups": (3, 4)}, "groups must divide 12 experts and be no fewer than top_groups, got 3 and 4"),
        ({"bias_E": torch.zeros(11)}, r"bias must be contiguous float32 \[12\] on the CPU, got shape \[11\]"),
        ({"logits_TE": torch.zeros(12)}, r"logits must be contiguous float32 \[tokens, numbers\], got shape \[12\]"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        route(**{"logits_TE": torch.zeros(2, 12), "top_k": 2} | change)


@needs_native
def test_gradients_that_do_not_fit_are_named() -> None:
    experts, weights, scores = route(torch.zeros(2, 12), 3)
    back = torch.ops.foveate.moe_route_backward
    with pytest.raises(RuntimeError, match="experts must lie in 0 to 11, got 12"):
        back(weights, None, experts + 10, scores, False, True, 1.0)
    with pytest.raises(RuntimeError, match=r"grad_weights must have the shape of experts \[2, 3\], got \[2, 2\]"):
        back(weights[:, :2].contiguous(), None, experts, scores, False, True, 1.0)
    with pytest.raises(RuntimeError, match=r"grad_scores must have the shape of scores \[2, 12\], got \[2, 3\]"):
        back(weights, weights, experts, scores, False, True, 1.0)
