"""The vision tower: patches of any number of images, of any sizes, in one packed sequence.

Most layers attend inside windows of window_size_px, some over the whole image (Qwen2.5-VL). Patches are put into window
order once at the entrance, in whole merged blocks, and back at the exit. 2-D RoPE tells where two patches lie to each
other. Where in the picture one lies is told by a learned table, resampled to each image's grid: to the tower when it is
added to the patches (MoonViT), to the decoder when it is added to the merged tokens (nano).

Shape letters: N patches, P values of a patch, D width, M merged tokens, E width of the decoder.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.models.config import VisionConfig
from foveate.models.feedforward import MLP, SwiGLU, activate
from foveate.models.image import Grid, patch_coordinates
from foveate.models.init import shrink_residuals
from foveate.models.linear import Linear
from foveate.models.norm import RMSNorm, make_norm
from foveate.models.rope import vision_tables
from foveate.models.speller import Speller
from foveate.models.stem import ConvStem, LinearStem
from foveate.ops import Packing, Tables, put_rows, take_rows, window_attention

OUTPUT_POSITION_RMS = 0.5
"""Of the output's positions at the start, beside tokens of 1."""


def nothing() -> None:
    """Does nothing."""


class VisionAttention(nn.Module):
    """Attention inside the given packing, with 2-D RoPE."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_ND: Tensor, tables: Tables, packing: Packing) -> Tensor:
        """[N, D] -> [N, D]."""
        return self.proj(window_attention(self.qkv(x_ND), tables, packing, self.num_heads))


class VisionBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.norm1 = make_norm(config.norm, width, config.norm_eps)
        self.attn = VisionAttention(config)
        self.norm2 = make_norm(config.norm, width, config.norm_eps)
        self.mlp: nn.Module
        if config.feedforward == "swiglu":
            self.mlp = SwiGLU(width, inner, bias=True)
        else:
            self.mlp = MLP(width, inner, config.feedforward)

    def forward(self, x_ND: Tensor, tables: Tables, packing: Packing) -> Tensor:
        """[N, D] -> [N, D]."""
        x_ND = x_ND + self.attn(self.norm1(x_ND), tables, packing)
        return x_ND + self.mlp(self.norm2(x_ND))


class Merger(nn.Module):
    """Projector: each merged block of patches becomes one token of the decoder.

    The norm is over each patch, or with `over_block` over the whole block.
    """

    def __init__(self, config: VisionConfig, out_dim: int, *, over_block: bool = False) -> None:
        super().__init__()
        self.config, self.over_block = config, over_block
        width = config.hidden_size * config.merge_size**2
        self.norm = make_norm(config.norm, width if over_block else config.hidden_size, config.norm_eps)
        self.up = Linear(width, width)
        self.down = Linear(width, out_dim)
        self.out_norm = RMSNorm(out_dim, config.norm_eps) if config.output_norm else nn.Identity()

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [M, E]."""
        blocks = (-1, self.up.in_features)
        x = self.norm(x_ND.reshape(blocks)) if self.over_block else self.norm(x_ND).reshape(blocks)
        y: Tensor = self.out_norm(self.down(activate(self.up(x), self.config.merger_activation)))
        return y


class VisionTower(nn.Module):
    """Patches to tokens of the decoder."""

    def __init__(self, config: VisionConfig, out_dim: int) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvStem(config) if config.stem == "conv" else LinearStem(config)
        if config.position_grid:
            side = config.position_grid
            self.positions = nn.Parameter(torch.empty(side, side, config.hidden_size))
            nn.init.normal_(self.positions, std=0.02)
        if config.output_position_grid:
            self.output_positions = nn.Parameter(sincos_positions(config.output_position_grid, out_dim))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))
        shrink_residuals(self.blocks)
        if config.final_norm:
            self.norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.merger = Merger(config, out_dim)
        self.deep_mergers = nn.ModuleList(Merger(config, out_dim, over_block=True) for _ in config.deep_layers)
        voices = {
            "spelled": (config.spelled_places, config.spelled_tokens),
            "named": (config.named_places, config.named_tokens),
        }
        self.spellers = nn.ModuleDict(
            {kind: Speller(places, tokens, out_dim) for kind, (places, tokens) in voices.items() if places}
        )

    def forward(self, patches_NP: Tensor, grids: list[Grid], embeddings_VE: Tensor) -> Tensor:
        """Patches of all images, in block order, to the tokens [M, E] of all images; see `finish`."""
        return self.finish(self.tokens(patches_NP, grids), grids, embeddings_VE)

    def finish(self, tokens_ME: Tensor, grids: list[Grid], embeddings_VE: Tensor) -> Tensor:
        """What the decoder gets of each token: what is seen, what it says in the decoder's embeddings, and where."""
        said = [speller(tokens_ME, embeddings_VE) for speller in self.spellers.values()]
        return self._place(sum(said, tokens_ME), grids)

    def tokens(self, patches_NP: Tensor, grids: list[Grid], heed: Callable[[], None] = nothing) -> Tensor:
        """What is seen, without where, from the patches of all images in block order: [N, P] -> [M, E].

        `heed` is called before each block; what it raises ends the work.

        With deep_layers their tokens stand behind it, [M, (1 + layers) * E].
        """
        *deep, last_ND = self._features(patches_NP, grids, heed)
        layers = self.config.deep_layers
        mergers = (self.deep_mergers[layers.index(layer)] for layer in sorted(layers))
        merged = (merger(x_ND) for merger, x_ND in zip(mergers, deep, strict=True))
        return torch.cat([self.merger(last_ND), *merged], dim=1)

    def _place(self, tokens_ME: Tensor, grids: list[Grid]) -> Tensor:
        """Tell each token where in its picture it stands, [M, E] -> [M, E]."""
        if not self.config.output_position_grid:
            return tokens_ME
        return tokens_ME + of_each(grids, self._output_positions).to(tokens_ME.dtype)

    def encode(self, patches_NP: Tensor, grids: list[Grid]) -> Tensor:
        """Features [N, D] of every patch, in block order."""
        return self._features(patches_NP, grids)[-1]

    def _features(self, patches_NP: Tensor, grids: list[Grid], heed: Callable[[], None] = nothing) -> list[Tensor]:
        """Features [N, D] of every patch, in block order, after each of deep_layers and after the last."""
        config = self.config
        x_ND = self.stem(patches_NP, grids)
        if config.position_grid:
            x_ND = x_ND + of_each(grids, self._learned_positions).to(x_ND.dtype)
        order, windows = window_order(grids, config)
        coordinates_N2 = torch.cat([patch_coordinates(grid, config.merge_size) for grid in grids])[order]
        order, coordinates_N2 = order.to(x_ND.device), coordinates_N2.to(x_ND.device)
        tables = vision_tables(coordinates_N2, config.hidden_size // config.num_heads, config.rope_theta)
        within = Packing(windows)
        whole = Packing([grid.h * grid.w for grid in grids for _ in range(grid.t)])
        x_ND = take_rows(x_ND, order)
        features = []
        for idx, block in enumerate(self.blocks):
            heed()
            x_ND = block(x_ND, tables, whole if idx in config.full_attention_layers else within)
            if idx in config.deep_layers:
                features.append(put_rows(x_ND, order, len(order)))
        x_ND = self.norm(x_ND) if config.final_norm else x_ND
        return [*features, put_rows(x_ND, order, len(order))]

    def _learned_positions(self, grid: Grid) -> Tensor:
        """The table at the image's grid [N, D] in f32, in block order."""
        m = self.config.merge_size
        resized_DHW = resample_table(self.positions, grid.h, grid.w, self.config.position_resampling)
        blocks = resized_DHW.unflatten(1, (-1, m)).unflatten(3, (-1, m)).permute(1, 3, 2, 4, 0)
        return blocks.flatten(0, 3).repeat(grid.t, 1)

    def _output_positions(self, grid: Grid) -> Tensor:
        """The other table at the image's grid of merged tokens [M, E] in f32."""
        m = self.config.merge_size
        resized_EHW = resample_table(self.output_positions, grid.h // m, grid.w // m, "bicubic")
        return resized_EHW.flatten(1).T.repeat(grid.t, 1)


def of_each(grids: Sequence[Grid], rows_of: Callable[[Grid], Tensor]) -> Tensor:
    """The rows of each grid one after another; `rows_of` is asked once for grids that are equal."""
    distinct = {grid: rows_of(grid) for grid in dict.fromkeys(grids)}
    rows_ND = torch.cat(list(distinct.values()))
    if len(distinct) == len(grids):
        return rows_ND
    starts = dict(zip(distinct, accumulate(map(len, distinct.values()), initial=0), strict=False))
    index = torch.cat([torch.arange(starts[grid], starts[grid] + len(distinct[grid])) for grid in grids])
    return rows_ND.index_select(0, index.to(rows_ND.device))


def resample_table(table_SSD: Tensor, rows: int, columns: int, mode: Literal["bicubic", "bilinear"]) -> Tensor:
    """A square table of positions at another grid, [D, rows, columns] in f32; see VisionConfig."""
    table_1DSS = table_SSD.permute(2, 0, 1)[None].float()
    return F.interpolate(table_1DSS, (rows, columns), mode=mode, align_corners=mode == "bilinear")[0]


def sincos_positions(side: int, width: int) -> Tensor:
    """A table [side, side, D] to start from: sines and cosines of the row, then of the column, 1/4 to side/2 waves.

    Smooth from the start, unlike noise: what is learned about one place holds next to it. On the processor, also where
    a model is laid out without numbers (foveate.models.init).
    """
    with torch.device("cpu"):
        return _sincos(side, width)


def _sincos(side: int, width: int) -> Tensor:
    waves_F = torch.logspace(math.log2(0.25), math.log2(side / 2), width // 4, base=2)
    angles_SF = 2 * torch.pi * (torch.arange(side)[:, None] + 0.5) / side * waves_F
    line_SF = torch.cat([angles_SF.sin(), angles_SF.cos()], dim=-1)
    rows_SSF = line_SF[:, None].expand(-1, side, -1)
    return OUTPUT_POSITION_RMS * 2**0.5 * torch.cat([rows_SSF, rows_SSF.transpose(0, 1)], dim=-1)


def window_order(grids: list[Grid], config: VisionConfig) -> tuple[Tensor, list[int]]:
    """The permutation [N] that puts patches into window order, and the length of every window.

    A window holds whole merged blocks; those at the right and lower border may be smaller. Every frame of every image
    starts a new window. Windows of one image are ordered by size, so that equal ones are neighbours.
    """
    block = config.merge_size**2
    side = max(1, config.window_size_px // (config.patch_size * config.merge_size))
    orders: list[Tensor] = []
    lengths: list[int] = []
    offset = 0
    for grid in grids:
        order_N, sizes = _frame_order(grid.h // config.merge_size, grid.w // config.merge_size, side, block)
        for _ in range(grid.t):
            orders.append(order_N + offset)
            lengths += sizes
            offset += len(order_N)
    return torch.cat(orders), lengths


@lru_cache(maxsize=512)
def _frame_order(rows: int, cols: int, side: int, block: int) -> tuple[Tensor, list[int]]:
    """The window order of a frame of so many blocks, and the length of every window; not to be changed."""
    window_HW = (torch.arange(rows) // side)[:, None] * -(-cols // side) + torch.arange(cols) // side
    counts = torch.bincount(window_HW.reshape(-1))
    rank = torch.argsort(torch.argsort(counts, descending=True, stable=True))
    order_M = torch.argsort(rank[window_HW.reshape(-1)], stable=True)
    order_N = (order_M[:, None] * block + torch.arange(block)).reshape(-1)
    return order_N, (counts.sort(descending=True).values * block).tolist()
