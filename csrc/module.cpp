// The Python module foveate._C: what is not an operation on tensors. Importing it also registers torch.ops.foveate,
// whose schemas and kernels are linked into the same shared object.

#include "cpu/features.h"
#include "cpu/isa.h"

#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native part of foveate: registers torch.ops.foveate and reports on the processor.";
  m.def(
      "cpu_features",
      [] {
        pybind11::dict report;
        for (const auto& [name, present] : foveate::cpu_features()) {
          report[pybind11::str(name)] = present;
        }
        return report;
      },
      "Instruction sets that this processor and operating system offer, narrowest first; empty if not x86-64.");
  m.def(
      "isa", [] { return std::string(foveate::isa_name(foveate::chosen_isa())); },
      "The instruction set that the kernels run with: the widest here, or what $FOVEATE_ISA names.");
  m.def("use_isa", &foveate::use_isa, pybind11::arg("name"),
        "Run the kernels with this instruction set from now on; returns the one before.");
}
