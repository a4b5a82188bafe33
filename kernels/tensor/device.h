// Where a tensor's bytes live and who computes on them.
#pragma once

#include <cstdint>

#include "kernels/tensor/timeline.h"

namespace ropewalk {

// The host. Ops choose a back end by this type: `launch(Cpu, args)` is the CPU half of an op.
struct Cpu {};

class Device {
 public:
  enum class Kind : uint8_t { kCpu };

  Device() = default;
  Device(Cpu) {}
  Kind kind() const { return kind_; }
  bool operator==(const Device&) const = default;

 private:
  Kind kind_ = Kind::kCpu;
};

// Hands an op's arguments to the back end of the device. The only place that chooses one. An op that knows what it has to do at least says
// so by a function `Effort effort(const Args&)` beside its launch.
template <class Args>
void launch(Device, const Args& args) {
  Phase kernel(name_of_type<Args>(), TimeSpan::kKernel);
  if constexpr (requires { effort(args); }) {
    if (kernel.recorded()) kernel.set(effort(args));
  }
  launch(Cpu{}, args);
}

}  // namespace ropewalk
