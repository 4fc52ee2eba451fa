"""Multi-head latent attention: all heads' keys and values are projections of one short vector a token (DeepSeek-V2).

The cache holds the latents. A new token is compared with them in the latents' own space, its queries projected once
(absorbed weights); where many tokens come, keys and values are expanded, which is cheaper there.

Source: DeepSeek-V2, arXiv 2405.04434, section 2.1; Kimi-VL's decoder has no low rank for queries.

Shape letters: T new tokens, C tokens, H heads, W width of what is cached, R rank of latents, D head dimension of
queries, P its part without rotation, V head dimension of values, E = P + V, F numbers that turn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from foveate.models.attend import Attend
from foveate.models.config import DecoderConfig
from foveate.models.linear import Linear
from foveate.models.norm import RMSNorm
from foveate.ops import Tables, rotate


@dataclass(frozen=True, eq=False)
class LatentQueries:
    """Queries of new tokens, and how keys and values come out of latents."""

    q_THD: Tensor
    """The last numbers of each head turn; the P before do not."""
    up_HER: Tensor
    """From latents to each head's P numbers of the keys, then to its V values."""
    plain_dim: int

    @property
    def scale(self) -> float:
        """Of the products of queries and keys."""
        return float(self.q_THD.shape[-1] ** -0.5)

    @property
    def rank(self) -> int:
        """How many of the cached numbers are the latent; the others are the key that turns."""
        return self.up_HER.shape[-1]

    @property
    def value_dim(self) -> int:
        """Numbers of a head's values."""
        return self.up_HER.shape[1] - self.plain_dim

    def absorbed(self) -> Tensor:
        """Queries for the latents themselves, [T, H, W]."""
        plain, turned = self.q_THD.tensor_split((self.plain_dim,), dim=-1)
        absorbed = torch.bmm(plain.transpose(0, 1), self.up_HER[:, : self.plain_dim]).transpose(0, 1)
        return torch.cat([absorbed, turned], dim=-1)

    def values(self, out_THR: Tensor) -> Tensor:
        """Values of weighted sums of latents, [T, H, V]; the weights stand first, or they would be copied."""
        values_HVT = torch.bmm(self.up_HER[:, self.plain_dim :], out_THR.permute(1, 2, 0))
        return values_HVT.permute(2, 0, 1)

    def expanded(self, latents_CW: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of every head, both [C, H, D]: the values end in zeros."""
        latents_CR, turned_CF = latents_CW.tensor_split((self.rank,), dim=1)
        both_CHE = (latents_CR @ self.up_HER.flatten(0, 1).T).unflatten(-1, self.up_HER.shape[:2])
        k_plain, v_CHV = both_CHE.tensor_split((self.plain_dim,), dim=-1)
        k_CHD = torch.cat([k_plain, turned_CF[:, None].expand(-1, len(self.up_HER), -1)], dim=-1)
        return k_CHD, pad(v_CHV, (0, k_CHD.shape[-1] - self.value_dim))


class LatentAttention(nn.Module):
    """Projections of one layer's latent attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        assert config.latent is not None
        self.latent, self.num_heads = config.latent, config.num_heads
        plain, turning, rank = self.latent.plain_dim, config.head_dim, self.latent.rank
        self.q = Linear(config.hidden_size, config.num_heads * (plain + turning), bias=False)
        self.kv_down = Linear(config.hidden_size, rank + turning, bias=False)
        self.kv_norm = RMSNorm(rank)  # with its usual epsilon whatever the others' is, as the family's own code
        self.kv_up = nn.Linear(rank, config.num_heads * (plain + self.latent.value_dim), bias=False)
        self.proj = Linear(config.num_heads * self.latent.value_dim, config.hidden_size, bias=False)

    def forward(self, x_TD: Tensor, tables: Tables, layer: int, attend: Attend) -> Tensor:
        """[T, D] -> [T, D]."""
        plain = self.latent.plain_dim
        q_plain, q_turning = self.q(x_TD).unflatten(-1, (self.num_heads, -1)).tensor_split((plain,), dim=-1)
        latents_TR, k_turning = self.kv_down(x_TD).tensor_split((self.latent.rank,), dim=-1)
        q_THD = torch.cat([q_plain, rotate(q_turning.contiguous(), tables)], dim=-1)
        k_turned = rotate(k_turning[:, None].contiguous(), tables)[:, 0]
        latents_TW = torch.cat([self.kv_norm(latents_TR.contiguous()), k_turned], dim=-1)
        up_HER = self.kv_up.weight.unflatten(0, (self.num_heads, -1))
        return self.proj(attend.latents(layer, LatentQueries(q_THD, up_HER, plain), latents_TW).flatten(1))
