// What the processor and the operating system offer. The kernels, each built for one instruction set, are chosen by it.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace foveate {

// Name and presence of every instruction set that a kernel may use, narrowest first; empty where none is known.
std::vector<std::pair<std::string, bool>> cpu_features();

// Asks the operating system for the registers of AMX, which a process needs before its first tile instruction.
bool may_use_tiles();

}  // namespace foveate
