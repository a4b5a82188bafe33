// Where a tensor's bytes live and who computes on them.
#pragma once

#include <concepts>
#include <cstdint>

#include "kernels/error.h"
#include "kernels/tensor/timeline.h"

namespace ropewalk {

// Ops choose a back end by these types: `launch(Cpu, args)` is the CPU half of an op, `launch(Cuda, args)` the CUDA half.
struct Cpu {};   // the host
struct Cuda {};  // this rank's GPU (kernels/cuda/runtime.h)

// Whether this program is built with the CUDA halves.
#ifdef ROPEWALK_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

class Device {
 public:
  enum class Kind : uint8_t { kCpu, kCuda };

  Device() = default;
  Device(Cpu) {}
  Device(Cuda) : kind_(Kind::kCuda) {}
  Kind kind() const { return kind_; }
  bool is_cuda() const { return kind_ == Kind::kCuda; }
  bool operator==(const Device&) const = default;

 private:
  Kind kind_ = Kind::kCpu;
};

// Hands arguments to the back end of the device. The only place that chooses one.
template <class Args>
void compute(Device device, const Args& args) {
  if (!device.is_cuda()) return launch(Cpu{}, args);
  if constexpr (kHasCuda && requires { launch(Cuda{}, args); })
    launch(Cuda{}, args);
  else
    throw Error(2, fmt::format("{} is not written for GPUs", name_of_type<Args>()));
}

// The same for an op's kernel, which the timeline shows. An op that knows what it has to do at least says so by a function
// `Effort effort(const Args&)` beside its launch.
template <class Args>
void launch(const std::same_as<Device> auto& device, const Args& args) {  // not what converts to a Device: that is a back end's own launch
  Phase kernel(name_of_type<Args>(), TimeSpan::kKernel);
  if constexpr (requires { effort(args); }) {
    if (kernel.recorded()) kernel.set(effort(args));
  }
  compute(device, args);
}

}  // namespace ropewalk
