"""Models of transformers give the same results with our operations, which then do the work."""

from collections.abc import Callable

import pytest
import torch
import transformers
from needs import needs_native
from torch import Tensor, nn

from foveate.errors import ConfigError
from foveate.models import hub
from references import draw

pytestmark = pytest.mark.usefixtures("quiet")

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 512}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
TOKENS = {"image_token_id": 120, "video_token_id": 121, "vision_start_token_id": 122, "vision_end_token_id": 123}
IMAGE_GRID = torch.tensor([[1, 8, 12]])


def marked() -> nn.Module:
    """A module of a model that `accelerate` has been given."""
    module = nn.Module()
    setattr(module, hub.MARK, True)
    return module


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each of our operations ran."""
    counted = dict.fromkeys(("packed_attention", "decode_attention", "window_attention", "experts_forward"), 0)

    def count(name: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counting(*args: object, **kwargs: object) -> Tensor:
            counted[name] += 1
            return run(*args, **kwargs)

        return counting

    for name in counted:
        monkeypatch.setattr(hub, name, count(name, getattr(hub, name)))
    return counted


def qwen2_5_vl() -> nn.Module:
    torch.manual_seed(0)
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64,
              "window_size": 56, "fullatt_block_indexes": [1]}  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": ROPE}, vision_config=vision, **TOKENS
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen3_vl_moe() -> nn.Module:
    torch.manual_seed(0)
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64,
              "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}  # fmt: skip
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16}
    config = transformers.Qwen3VLMoeConfig(
        text_config={**TEXT, **experts, "rope_parameters": ROPE}, vision_config=vision, **TOKENS
    )
    return transformers.Qwen3VLMoeForConditionalGeneration(config).eval()


def deepseek_v3() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(
        **{**TEXT, "num_key_value_heads": 4}, n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1,
        moe_intermediate_size=48, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=24, qk_nope_head_dim=16,
        qk_rope_head_dim=8, v_head_dim=16,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config).eval()


def with_picture(model: nn.Module) -> dict[str, Tensor]:
    """A question about a picture of 8 x 12 patches, as a processor makes it."""
    vision = model.config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    tokens = [122, *[120] * 24, 123, *range(5, 14)]
    return {
        "input_ids": torch.tensor([tokens]),
        "mm_token_type_ids": torch.tensor([[int(token == 120) for token in tokens]]),
        "pixel_values": draw((96, width), torch.float32, 3),
        "image_grid_thw": IMAGE_GRID,
    }


@needs_native
@pytest.mark.parametrize("make", [qwen2_5_vl, qwen3_vl_moe])
def test_a_vision_language_model_answers_the_same(make: Callable[[], nn.Module], calls: dict[str, int]) -> None:
    model = make()
    inputs = with_picture(model)
    with torch.no_grad():
        before = model(**inputs).logits
        written = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert set(calls.values()) == {0}
        changed = hub.accelerate(model)
        after = model(**inputs).logits
    assert "2 layers of vision attention" in changed
    assert ("experts" in changed) == (make is qwen3_vl_moe)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert calls["window_attention"] == calls["packed_attention"] == 2
    assert calls["experts_forward"] == (2 if make is qwen3_vl_moe else 0)
    assert calls["decode_attention"] == 0
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False), written)
    assert calls["decode_attention"] == 2 * 5, "two layers, and every token after the first"


@needs_native
@pytest.mark.parametrize("batch", [1, 3])
def test_deepseek_generates_the_same_from_its_expanded_cache(calls: dict[str, int], batch: int) -> None:
    model = deepseek_v3()
    inputs = torch.randint(1, 120, (batch, 7), generator=torch.Generator().manual_seed(1))
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(inputs)}
    written = model.generate(inputs, **settings)
    hub.accelerate(model)
    assert torch.equal(model.generate(inputs, **settings), written)
    assert calls["decode_attention"] == 2 * 5
    assert calls["packed_attention"] == 0, "its keys are wider than its values"


@needs_native
@pytest.mark.parametrize("make", [qwen2_5_vl, qwen3_vl_moe])
def test_autocast_gives_what_it_gave_before(make: Callable[[], nn.Module]) -> None:
    model = make()
    inputs = with_picture(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = model(**inputs).logits
        hub.accelerate(model)
        after = model(**inputs).logits
    assert before.dtype == after.dtype
    torch.testing.assert_close(after, before, rtol=0.05, atol=0.05)


@needs_native
def test_experts_of_deepseek_run_ours_and_gradients_agree(calls: dict[str, int]) -> None:
    inputs = torch.tensor([[5, 9, 17, 3, 64, 2], [7, 7, 1, 90, 11, 4]])
    gradients = []
    for ours in (False, True):
        model = deepseek_v3()
        if ours:
            assert hub.accelerate(model) == ["attention", "experts"]
        model(input_ids=inputs, labels=inputs).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert calls["experts_forward"] == 1
    assert any("experts.gate_up_proj" in name for name in gradients[0])
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad, rtol=1e-3, atol=1e-5, msg=name)


def test_padding_and_a_past_go_where_they_went_before(calls: dict[str, int]) -> None:
    model = qwen2_5_vl()
    inputs = {
        "input_ids": torch.tensor([[0, 0, 5, 9, 17], [8, 3, 5, 9, 17]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    }
    with torch.no_grad():
        before = model(**inputs).logits
        hub.accelerate(model)
        torch.testing.assert_close(model(**inputs).logits, before, rtol=1e-4, atol=1e-5)
    assert calls["packed_attention"] == 0


@needs_native
@pytest.mark.parametrize(("asked", "settings"), [(3, {}), (7, {"dropout": 0.1})])
def test_what_ours_does_not_serve_goes_to_transformers(
    asked: int, settings: dict[str, float], calls: dict[str, int]
) -> None:
    """Some new tokens over a past, and dropout."""
    module = marked()
    module.num_key_value_groups = 2
    query, key, value = (draw((2, heads, 7, 16), torch.float32, heads) for heads in (4, 2, 2))
    hub.attention(module, query[:, :, -asked:], key, value, None, **settings)  # type: ignore[arg-type]
    assert calls["packed_attention"] == 0
    hub.attention(module, query, key, value, None)
    assert calls["packed_attention"] == 1


@needs_native
def test_experts_with_another_gate_stay_transformers(calls: dict[str, int]) -> None:
    inputs = torch.tensor([[5, 9, 17, 3]])
    for name, count in (("gelu", 0), ("silu", 1)):
        model = deepseek_v3()
        for module in model.modules():
            if hasattr(module, "act_fn"):
                module.act_fn = transformers.activations.ACT2FN[name]
        with torch.no_grad():
            before = model(input_ids=inputs).logits
            hub.accelerate(model)
            torch.testing.assert_close(model(input_ids=inputs).logits, before, rtol=1e-3, atol=1e-5)
        assert calls["experts_forward"] == count


def test_what_is_no_model_of_transformers_is_refused() -> None:
    with pytest.raises(ConfigError, match="accelerate got a Linear; it wants a model of transformers"):
        hub.accelerate(nn.Linear(2, 2))


@pytest.mark.parametrize("scaling", [None, 0.2])
def test_attention_with_a_scale_of_its_own(scaling: float | None) -> None:
    query, key, value = (draw((2, heads, 7, 16), torch.float32, heads) for heads in (4, 2, 2))
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    )
    out, _ = hub.attention(marked(), query, key, value, None, scaling=scaling)
    torch.testing.assert_close(out, wanted.transpose(1, 2))


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (draw((1, 4, 7, 16), torch.float32, 1), draw((2, 4, 7, 16), torch.float32, 2)),
        (draw((2, 4, 1, 16), torch.float32, 1), draw((2, 4, 16, 7), torch.float32, 2).transpose(2, 3)),
    ],
)
def test_attention_takes_what_sdpa_takes(query: Tensor, key: Tensor) -> None:
    """A query for two rows of keys, and keys whose numbers do not lie side by side."""
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=query.shape[2] > 1)
    out, _ = hub.attention(marked(), query, key, key, None)
    torch.testing.assert_close(out, wanted.transpose(1, 2))


def deepseek_v32() -> nn.Module:
    """Four keys for each token, which an index chooses: 12 tokens are more."""
    config = transformers.DeepseekV32Config(
        **{**TEXT, "num_key_value_heads": 4}, n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1,
        moe_intermediate_size=48, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=24, qk_nope_head_dim=16,
        qk_rope_head_dim=8, v_head_dim=16, index_topk=4, index_head_dim=16, index_n_heads=2,
    )  # fmt: skip
    return transformers.DeepseekV32ForCausalLM(config)


def gemma2() -> nn.Module:
    """Scores are bounded softly, which SDPA cannot."""
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**TEXT, head_dim=16, query_pre_attn_scalar=16))


def gpt_oss() -> nn.Module:
    """A learned share of attention goes nowhere, which SDPA cannot."""
    config = transformers.GptOssConfig(**TEXT, head_dim=16, num_local_experts=4, num_experts_per_tok=2)
    model = transformers.GptOssForCausalLM(config)
    for name, sinks in model.named_parameters():
        if name.endswith("sinks"):
            nn.init.constant_(sinks, 2.0)
    return model


@needs_native
@pytest.mark.parametrize(("make", "changed"), [(deepseek_v32, ["attention", "experts"]), (gemma2, []), (gpt_oss, [])])
def test_models_with_another_attention_keep_it(make: Callable[[], nn.Module], changed: list[str]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    inputs = torch.randint(1, 120, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(input_ids=inputs).logits
        assert hub.accelerate(model) == changed
        torch.testing.assert_close(model(input_ids=inputs).logits, before, rtol=1e-3, atol=1e-5)


@needs_native
def test_a_model_that_is_not_asked_for_stays_as_it_was(calls: dict[str, int]) -> None:
    hub.accelerate(qwen3_vl_moe())
    other = qwen3_vl_moe()
    with torch.no_grad():
        other(**with_picture(other))
    assert set(calls.values()) == {0}
