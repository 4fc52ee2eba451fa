// Which numbers a lane of a warp has or fetches when tensor cores multiply [16, 16] by [16, 8]: plain arithmetic as in
// tiles.h.
#pragma once

#include "tiles.h"

namespace foveate::cuda {

// --- a result [16, 8]: of its four numbers a lane has two neighbours in a row and two eight rows below ---

FOVEATE_HOST_DEVICE int result_row(int lane, int number) {
  return lane / 4 + number / 2 * 8;
}

FOVEATE_HOST_DEVICE int result_column(int lane, int number) {
  return lane % 4 * 2 + number % 2;
}

// Whether a lane is the first of the four that share two rows.
FOVEATE_HOST_DEVICE bool is_first_of_row(int lane) {
  return lane % 4 == 0;
}

// --- operands: the first of the eight numbers that load_matrices reads at a lane's address, in a tile [16, 16] ---

// Of a first operand that lies row by row, also of a second that lies [depth, columns], with load_matrices_turned ...
FOVEATE_HOST_DEVICE int lane_row(int lane) {
  return lane % 16;
}

FOVEATE_HOST_DEVICE int lane_column(int lane) {
  return lane / 16 * 8;
}

// ... and of a second operand that lies [columns, depth]: two of its tiles at once.
FOVEATE_HOST_DEVICE int lane_row_across(int lane) {
  return lane % 8 + lane / 16 * 8;
}

FOVEATE_HOST_DEVICE int lane_column_across(int lane) {
  return lane / 8 % 2 * 8;
}

}  // namespace foveate::cuda
