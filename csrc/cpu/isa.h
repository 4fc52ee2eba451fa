// The instruction set that kernels with one unit for each run with: the widest that the processor has, or the one that
// $FOVEATE_ISA or `use_isa` names.
#pragma once

#include <string>

namespace foveate {

enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Bf16, kAmx, kEmulatedAmx };

Isa chosen_isa();

const char* isa_name(Isa isa);

// Makes kernels run with this instruction set from now on and returns the name of the one before. Raises when the name
// is unknown or the processor lacks it.
std::string use_isa(const std::string& name);

}  // namespace foveate
