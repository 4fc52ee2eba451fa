#include "isa.h"

#include "features.h"
#include "kernels.h"

#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <vector>

namespace foveate {
namespace {

struct Requirement {
  Isa isa;
  std::vector<std::string> features;
};

// Narrowest first.
const std::vector<Requirement>& requirements() {
  static const std::vector<Requirement> all = {
      {Isa::kGeneric, {}},
      {Isa::kAvx2, {"avx2", "fma"}},
      {Isa::kAvx512, {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"}},
      {Isa::kAvx512Bf16, {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16"}},
      {Isa::kAmx,
       {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "amx_tile", "amx_bf16"}},
      {Isa::kEmulatedAmx, {}},
  };
  return all;
}

bool is_here(const Requirement& wanted) {
  const auto features = cpu_features();
  const std::map<std::string, bool> present(features.begin(), features.end());
  for (const std::string& name : wanted.features) {
    const auto found = present.find(name);
    if (found == present.end() || !found->second) {
      return false;
    }
  }
  switch (wanted.isa) {
    case Isa::kAmx:
      return may_use_tiles() && amx_works();
    case Isa::kEmulatedAmx:
      return emulated_amx_works();
    default:
      return true;
  }
}

Isa named(const std::string& name) {
  std::string known;
  for (const Requirement& each : requirements()) {
    if (name == isa_name(each.isa)) {
      STD_TORCH_CHECK(is_here(each), "this processor lacks the instruction set ", name, "; choose a narrower one");
      return each.isa;
    }
    known += std::string(known.empty() ? "" : ", ") + isa_name(each.isa);
  }
  STD_TORCH_CHECK(false, "the instruction set is named '", name, "'; wanted one of ", known);
  return Isa::kGeneric;
}

Isa first_choice() {
  const char* forced = std::getenv("FOVEATE_ISA");
  if (forced != nullptr && *forced != '\0') {
    return named(forced);
  }
  Isa widest = Isa::kGeneric;
  for (const Requirement& each : requirements()) {
    widest = each.isa != Isa::kEmulatedAmx && is_here(each) ? each.isa : widest;
  }
  return widest;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa(first_choice());
  return isa;
}

}  // namespace

Isa chosen_isa() {
  return current().load();
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAmx:
      return "amx";
    case Isa::kEmulatedAmx:
      return "emulated_amx";
    default:
      return "generic";
  }
}

std::string use_isa(const std::string& name) {
  return isa_name(current().exchange(named(name)));
}

}  // namespace foveate
