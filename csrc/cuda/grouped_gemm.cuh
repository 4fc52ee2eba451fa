// Rows of experts times the experts' matrices, [P, depth] x [E, columns, depth] -> [P, columns], on tensor cores.
//
// A block takes up to kBlock rows of one expert and 128 columns (or 64 columns of gate and the 64 of up that belong to
// them: silu(gate) * up is then in its registers). Rows may be gathered by their token while they are loaded. Copies run
// three or four pieces of depth 64 ahead.
#pragma once

#include "launch.h"
#include "tiles.h"

namespace foveate::cuda {

struct Product {
  const bf16* rows;  // [P, depth], or the tokens' [T, depth] when `source` is given
  const int* source;  // [P] or null
  const bf16* weights;  // [E, columns, depth], with a gate [E, 2 * columns, depth]
  const int *ends, *tiles;  // [E + 1]
  bf16* out;  // [P, columns]
  int num_experts, columns, depth;
};

// Warps of a block: down the rows, across the columns, and the 8-column tiles of each.
template <int kBlock>
struct Warps {
  static constexpr int kDown = kBlock >= 64 ? 2 : 1, kAcross = kGemmThreads / 32 / kDown;
  static constexpr int kRowTiles = kBlock / kDown / 16, kColumnTiles = kGemmColumns / kAcross / 8;

  FOVEATE_HOST_DEVICE static int first_row(int warp) {
    return warp / kAcross * kRowTiles * 16;
  }
  FOVEATE_HOST_DEVICE static int first_column(int warp) {
    return warp % kAcross * kColumnTiles * 8;
  }
};

template <int kBlock, bool kGated>
__device__ __forceinline__ void load_piece(const Product& product, const Tile& tile, int depth, bf16* rows,
                                           bf16* weights) {
  for (int idx = threadIdx.x; idx < kBlock * kGemmDepth / 8; idx += kGemmThreads) {
    const auto [row, number] = piece_of<8>(idx, kGemmDepth);
    const int at = depth + number;
    const bool there = tile.first + row < tile.end && at < product.depth;
    const int from = !there ? 0 : product.source ? product.source[tile.first + row] : tile.first + row;
    copy_async(rows + swizzled(row, number / 8), product.rows + int64_t{from} * product.depth + (there ? at : 0),
               there);
  }
  const int num_rows = kGated ? 2 * product.columns : product.columns;
  const bf16* matrix = product.weights + int64_t{tile.sequence} * num_rows * product.depth;
#pragma unroll
  for (int idx = threadIdx.x; idx < kGemmColumns * kGemmDepth / 8; idx += kGemmThreads) {
    const auto [row, number] = piece_of<8>(idx, kGemmDepth);
    const int at = depth + number;
    const int plain = blockIdx.y * kGemmColumns + row;
    const int from = kGated ? gate_up_row(blockIdx.y, row, product.columns) : plain < product.columns ? plain : -1;
    const bool there = from >= 0 && at < product.depth;
    copy_async(weights + swizzled(row, number / 8), matrix + (there ? int64_t{from} * product.depth + at : 0), there);
  }
}

// The tile of a block, looked for by all its threads at once; false where there are fewer tiles than blocks.
__device__ __forceinline__ bool find_tile_of_experts(const Product& product, int rows, Tile& found) {
  __shared__ Tile tile;
  bool mine = false;
  for (int expert = threadIdx.x; expert < product.num_experts && !mine; expert += kGemmThreads) {
    mine = is_tile_of(product.ends, product.tiles, expert, rows, blockIdx.x, found);
  }
  if (mine) {
    tile = found;
  }
  if (!__syncthreads_or(mine)) {
    return false;
  }
  found = tile;
  return true;
}

template <int kBlock, bool kGated>
__global__ void __launch_bounds__(kGemmThreads) multiply_groups(Product product) {
  using Shape = Warps<kBlock>;
  constexpr int kStages = gemm_stages(kBlock), kStage = (kBlock + kGemmColumns) * kGemmDepth;
  Tile tile;
  if (!find_tile_of_experts(product, kBlock, tile)) {
    return;
  }
  bf16* stages = reinterpret_cast<bf16*>(shared_memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int down = Shape::first_row(warp), across = Shape::first_column(warp);
  float sums[Shape::kRowTiles][Shape::kColumnTiles][4] = {};
  const int num_pieces = (product.depth + kGemmDepth - 1) / kGemmDepth;
  for (int piece = 0; piece < kStages - 1; ++piece) {
    if (piece < num_pieces) {
      bf16* stage = stages + piece * kStage;
      load_piece<kBlock, kGated>(product, tile, piece * kGemmDepth, stage, stage + kBlock * kGemmDepth);
    }
    commit_copies();
  }
  for (int piece = 0; piece < num_pieces; ++piece) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    const int ahead = piece + kStages - 1;
    if (ahead < num_pieces) {
      bf16* stage = stages + ahead % kStages * kStage;
      load_piece<kBlock, kGated>(product, tile, ahead * kGemmDepth, stage, stage + kBlock * kGemmDepth);
    }
    commit_copies();
    const bf16 *rows = stages + piece % kStages * kStage, *weights = rows + kBlock * kGemmDepth;
#pragma unroll
    for (int depth = 0; depth < kGemmDepth / 8; depth += 2) {
      uint32_t left[Shape::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < Shape::kRowTiles; ++m) {
        load_matrices(left[m], rows + swizzled(down + m * 16 + lane_row(lane), depth + lane_column(lane) / 8));
      }
#pragma unroll
      for (int n = 0; n < Shape::kColumnTiles; n += 2) {
        uint32_t right[4];
        load_matrices(right, weights + swizzled(across + n * 8 + lane_row_across(lane),
                                                depth + lane_column_across(lane) / 8));
#pragma unroll
        for (int m = 0; m < Shape::kRowTiles; ++m) {
          multiply_add(sums[m][n], left[m], right[0], right[1]);
          multiply_add(sums[m][n + 1], left[m], right[2], right[3]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < Shape::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < Shape::kColumnTiles; n += kGated ? 2 : 1) {
      const int column = result_group(blockIdx.y, across + n * 8, kGated) + result_column(lane, 0);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int row = tile.first + down + m * 16 + result_row(lane, 2 * part);
        float low = sums[m][n][2 * part], high = sums[m][n][2 * part + 1];
        if constexpr (kGated) {
          low = low / (1.0f + __expf(-low)) * sums[m][n + 1][2 * part];
          high = high / (1.0f + __expf(-high)) * sums[m][n + 1][2 * part + 1];
        }
        if (row < tile.end && column < product.columns) {
          *reinterpret_cast<uint32_t*>(product.out + int64_t{row} * product.columns + column) = pack(low, high);
        }
      }
    }
  }
}

template <int kBlock, bool kGated>
void launch_groups(const OnDevice& device, const Product& product, int64_t num_rows) {
  constexpr int kColumns = kGated ? kGemmColumns / 2 : kGemmColumns;
  const dim3 grid(most_tiles(num_rows, product.num_experts, kBlock), (product.columns + kColumns - 1) / kColumns);
  device.launch(multiply_groups<kBlock, kGated>, grid, kGemmThreads, gemm_bytes(kBlock), product);
}

template <bool kGated>
void multiply(const OnDevice& device, const Product& product, int64_t num_rows) {
  switch (gemm_rows(num_rows, product.num_experts)) {
    case 16:
      return launch_groups<16, kGated>(device, product, num_rows);
    case 64:
      return launch_groups<64, kGated>(device, product, num_rows);
    default:
      return launch_groups<128, kGated>(device, product, num_rows);
  }
}

}  // namespace foveate::cuda
