"""On a GPU the thinker says and learns what it does on the processor. Skipped where there is none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import noise

from foveate.agent.agent import Agent
from foveate.models import Thinker
from foveate.models.checkpoint import nano_path
from foveate.models.config import NANO, TINY
from foveate.models.image import Grid
from foveate.models.stem import ConvStem
from foveate.models.tokenizer import make_tokenizer
from foveate.ops import Packing, experts_forward, packed_attention
from foveate.ops.native import plain_pytorch
from foveate.rl.journal import METRICS
from foveate.rl.length import LengthPenalty
from foveate.rl.policy import train_policy
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.stages import make_stage
from foveate.rl.train import TrainConfig, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


def test_no_queries_and_several_dtypes_under_autocast_are_attended_as_on_the_processor() -> None:
    q, k, v = (torch.randn(40, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    assert packed_attention(q[:0], k, v, Packing([40]), queries=Packing([0])).shape == (0, 4, 64)
    assert packed_attention(q[:0], k[:0], v[:0], Packing([])).shape == (0, 4, 64)
    wanted = packed_attention(q, k, v, Packing([40]))
    with torch.autocast("cuda", torch.bfloat16):
        out = packed_attention(q, k.float(), v.float(), Packing([40]))
    torch.testing.assert_close(out, wanted, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("few", [None, [10, 64, 0, 37, 0, 200]])
@pytest.mark.parametrize(("causal", "key_heads"), [(False, 4), (True, 2)])
def test_packed_attention_and_its_gradients(causal: bool, key_heads: int, few: list[int] | None) -> None:
    packing, queries = Packing([64, 64, 1, 37, 0, 300]), Packing(few) if few else None
    asked = sum(few) if few else 466
    shapes = [(asked, 4, 64), (466, key_heads, 64), (466, key_heads, 64)]
    wanted = [torch.randn(shape, dtype=torch.bfloat16).float().requires_grad_() for shape in shapes]
    got = [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in wanted]
    weight = torch.randn(asked, 4, 64)
    here = packed_attention(*wanted, packing, causal=causal, queries=queries)
    (here * weight).sum().backward()
    out = packed_attention(*got, packing, causal=causal, queries=queries)
    (out.float() * weight.cuda()).sum().backward()
    torch.testing.assert_close(out.detach().float().cpu(), here.detach(), atol=2e-2, rtol=2e-2)
    for x, y in zip(got, wanted, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert float((x.grad.float().cpu() - y.grad).norm() / y.grad.norm()) < 1e-2


def test_grouped_products_of_experts_and_their_gradients() -> None:
    torch.manual_seed(0)
    chosen = torch.rand(300, 8).topk(2).indices.clamp_max(6)  # the last expert has no token
    shapes = [(300, 64), (300, 2), (8, 64, 64), (8, 64, 32)]
    here = [torch.randn(shape).bfloat16().float().mul(0.2).requires_grad_() for shape in shapes]
    there = [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in here]
    weight = torch.randn(300, 64)
    results = []
    for (x, weights, *matrices), device in ((here, "cpu"), (there, "cuda")):
        out = experts_forward(x, chosen.to(device), weights, *matrices)
        (out.float() * weight.to(device)).sum().backward()
        results.append([out.detach().float().cpu(), *(leaf.grad.float().cpu() for leaf in (x, weights, *matrices))])
    for wanted, got in zip(*results, strict=True):
        assert float((got - wanted).norm() / wanted.norm()) < 2e-2


def test_pictures_on_a_sheet_are_convolved_as_alone() -> None:
    torch.manual_seed(0)
    stem, grids = ConvStem(NANO.vision), [Grid(t=1, h=4, w=6), Grid(t=1, h=8, w=2), Grid(t=1, h=2, w=150)]
    patches_NP = torch.randn(sum(grid.num_patches for grid in grids), NANO.vision.patch_dim)
    wanted_ND = stem(patches_NP, grids).detach()
    got_ND = stem.cuda()(patches_NP.cuda(), grids).detach().cpu()
    assert float((got_ND - wanted_ND).norm() / wanted_ND.norm()) < 2e-3  # the convolutions run in TF32


def test_nano_sees_and_says_the_same() -> None:
    parts = [{"type": "image", "image": noise(500, 400)}, {"type": "text", "text": "What is under the dog?"}]
    messages = [{"role": "user", "content": parts}]
    thinker = Thinker.from_pretrained(nano_path(), dtype=torch.float32)
    wanted_TV = thinker(thinker.processor(messages))
    said = thinker.generate(messages, max_new_tokens=12)
    thinker.cuda()
    got_TV = thinker(thinker.processor(messages)).cpu()
    torch.testing.assert_close(got_TV, wanted_TV, atol=1e-2, rtol=0)  # the convolutions run in TF32: 3e-3 was seen
    assert thinker.generate(messages, max_new_tokens=12).token_ids == said.token_ids


def test_nano_in_bf16_is_as_exact_with_kernels_as_without() -> None:
    """Of most tokens and on the whole: a token whose experts are nearly alike takes others."""
    parts = [{"type": "image", "image": noise(500, 400)}, {"type": "text", "text": "What is under the dog?"}]
    messages = [{"role": "user", "content": parts}]
    exact = Thinker.from_pretrained(nano_path(), dtype=torch.float32).cuda()
    thinker = Thinker.from_pretrained(nano_path(), dtype=torch.bfloat16).cuda()
    inputs = thinker.processor(messages)
    with plain_pytorch():
        wanted_TV, plain_TV = exact(inputs), thinker(inputs).float()
    error, of_plain = (float((x_TV.float() - wanted_TV).norm()) for x_TV in (thinker(inputs), plain_TV))
    assert error < 1.5 * of_plain + 1e-3 * float(wanted_TV.norm())
    sample = thinker.generate(messages, max_new_tokens=8)  # one by one, from the cache
    said = {"role": "assistant", "content": sample.text, "token_ids": list(sample.token_ids)}
    ids = thinker.processor([*messages, said]).token_ids
    place = len(inputs.token_ids) - 1
    logprobs_TV = thinker(thinker.processor([*messages, said])).float().log_softmax(-1).cpu()
    again = [float(logprobs_TV[place + n, ids[place + n + 1]]) for n in range(len(sample.token_ids))]
    assert again == pytest.approx(list(sample.logprobs), abs=0.2)


@pytest.mark.parametrize("name", ["tower", "sft"])
def test_a_stage_starts_where_it_does_on_the_processor(tmp_path: Path, name: str) -> None:
    tokenizer = str(tmp_path / "tokenizer.json")
    make_tokenizer(["zoom", "image", "box"], TINY.decoder.vocab_size).save(tokenizer)
    values: dict[str, Any] = {"preset": "tiny", "tokenizer": tokenizer}
    if name == "sft":
        values |= {"tokens_per_batch": 300, "gaze_coef": 0.5, "brought_coef": 0.5, "dense_coef": 0.5}
    here, there = (make_stage(name, values, 0, device) for device in ("cpu", "cuda"))
    batch = here.batch(0)
    losses = [float(stage.loss(batch)[0].detach()) for stage in (here, there)]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert train(there, TrainConfig(steps=3, num_workers=1), tmp_path / "run") == 3
    again = make_stage(name, values, 0, "cuda")
    assert train(again, TrainConfig(steps=4, num_workers=1), tmp_path / "run", resume=True) == 4
    assert all(p.is_cuda and bool(p.isfinite().all()) for p in there.module.parameters())


def test_an_agent_answers_and_a_policy_learns(tmp_path: Path) -> None:
    noise(300, 200).save(tmp_path / "picture.png")
    with Agent(nano_path(), device="cuda") as agent:  # by its folder, as a model of one's own
        assert agent.ask("What is under the dog?", [tmp_path / "picture.png"]).status in ("answered", "out_of_budget")
    config = PolicyConfig(
        start=str(nano_path()), iterations=2, prompts=2, samples=4, at_once=8, updates=1, device="cuda",
        length=LengthPenalty(warmup_iterations=0),
    )  # fmt: skip
    assert train_policy("pmd", config, tmp_path / "run") == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert all(row["mismatch"] < 0.1 for row in rows if "mismatch" in row)
    assert any(row["grad_norm"] > 0 for row in rows)
