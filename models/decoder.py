"""The language model: grouped-query attention with M-RoPE, RMSNorm, SwiGLU and mixture-of-experts layers.

Shape letters: T tokens, D width, H query heads, G key heads, V vocabulary.
"""

from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foveate.models.attend import Attend
from foveate.models.config import DecoderConfig
from foveate.models.feedforward import SwiGLU
from foveate.models.init import shrink_residuals
from foveate.models.latent import LatentAttention
from foveate.models.linear import Linear
from foveate.models.moe import MoE
from foveate.models.norm import RMSNorm
from foveate.models.rope import mrope_tables
from foveate.ops import Tables, rotate


class DecoderAttention(nn.Module):
    """Projections of one layer's attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = Linear(config.hidden_size, heads * config.head_dim, bias=config.qkv_bias)
        self.proj = Linear(config.num_heads * config.head_dim, config.hidden_size, bias=config.out_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps, config.qk_norm_gain)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps, config.qk_norm_gain)

    def forward(self, x_TD: Tensor, tables: Tables, layer: int, attend: Attend) -> Tensor:
        """[T, D] -> [T, D]."""
        config = self.config
        q, k, v = (
            self.qkv(x_TD)
            .unflatten(-1, (-1, config.head_dim))
            .split((config.num_heads, config.num_kv_heads, config.num_kv_heads), dim=1)
        )
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.proj(attend.heads(layer, rotate(q, tables), rotate(k, tables), v).flatten(1))


class DecoderBlock(nn.Module):
    """Pre-norm attention and a dense or mixture-of-experts feed-forward."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.norm1 = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = DecoderAttention(config) if config.latent is None else LatentAttention(config)
        self.norm2 = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp: nn.Module
        if config.moe is None or layer < config.num_dense_layers or layer in config.dense_layers:
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)
        else:
            self.mlp = MoE(config.hidden_size, config.moe)

    def forward(self, x_TD: Tensor, tables: Tables, attend: Attend) -> tuple[Tensor, Tensor]:
        """[T, D] -> [T, D] and the layer's load-balancing loss (zero when dense)."""
        normed_TD, x_TD = self.norm2.of_sum(self.attn(self.norm1(x_TD), tables, self.layer, attend), x_TD)
        y = self.mlp(normed_TD)
        y_TD, balance = y if isinstance(y, tuple) else (y, x_TD.new_zeros(()))
        return x_TD + y_TD, balance


class Decoder(nn.Module):
    """Embeddings in, logits out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.recomputes = False
        """Whether the backward pass computes each block again, of which then only what goes in is kept."""
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(DecoderBlock(config, layer) for layer in range(config.num_layers))
        shrink_residuals(self.blocks)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.embed.weight, std=config.hidden_size**-0.5)
        if config.tie_embeddings:
            self.head.weight = self.embed.weight

    def embeddings(self) -> Tensor:
        """The table [V, D] that `embed_text` reads."""
        weight_VD: Tensor = self.embed.weight
        return weight_VD * self.config.embed_scale if self.config.embed_scale != 1.0 else weight_VD

    def embed_text(self, token_ids_T: Tensor) -> Tensor:
        """Embeddings [T, D] of text tokens."""
        x_TD: Tensor = self.embed(token_ids_T.to(self.embed.weight.device))
        return x_TD * self.config.embed_scale if self.config.embed_scale != 1.0 else x_TD

    def forward(self, x_TD: Tensor, positions_3T: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """Embeddings [T, D] to normed hidden states [T, D] and the sum of the load-balancing losses.

        Embeddings [T, (1 + n) * D] hold what is added behind each of the first n layers, too, as far as there are any.
        """
        config = self.config
        x_TD, *deep = x_TD.split(config.hidden_size, dim=-1)
        tables = mrope_tables(
            positions_3T.to(x_TD.device),
            config.mrope_section,
            config.rope_theta,
            interleaved=config.mrope_interleaved,
            share=config.rope_share,
            yarn=config.rope_yarn,
        )
        balance = x_TD.new_zeros((), dtype=torch.float32)
        for block, added_TD in zip_longest(self.blocks, deep[: len(self.blocks)]):
            if self.recomputes and torch.is_grad_enabled():
                x_TD, layer_balance = checkpoint(block, x_TD, tables, attend, use_reentrant=False)
            else:
                x_TD, layer_balance = block(x_TD, tables, attend)
            x_TD = x_TD if added_TD is None else x_TD + added_TD
            balance = balance + layer_balance
        return self.norm(x_TD), balance
