// Which instruction set is used.
#include "tensors.h"

namespace mmscope {
namespace {

std::vector<const Isa*> isas() {
  std::vector<const Isa*> able;
  for (const Isa* isa :
       {avx512_kernels(), avx2_kernels(), baseline_kernels()})
    if (isa) able.push_back(isa);
  return able;
}

const Isa*& chosen() {
  static const Isa* isa = isas().front();
  return isa;
}

}  // namespace

const Isa& isa() { return *chosen(); }

// The names, best first, that this machine can run.
std::string list_isas() {
  std::string names;
  for (const Isa* isa : isas())
    names += (names.empty() ? "" : " ") + std::string(isa->name);
  return names;
}

// For tests: returns the name of the one used until now.
std::string set_isa(const std::string& name) {
  const std::string before = chosen()->name;
  for (const Isa* isa : isas())
    if (name == isa->name) {
      chosen() = isa;
      return before;
    }
  TORCH_CHECK(false, "instruction set must be one of ", list_isas(),
              ", got ", name);
}

}  // namespace mmscope
