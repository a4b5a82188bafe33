// Where a tensor's bytes live and who computes on them.
#pragma once

#include <cstdint>

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

// Hands an op's arguments to the back end of the device. The only place that chooses one.
template <class Args>
void launch(Device, const Args& args) {
  launch(Cpu{}, args);
}

}  // namespace ropewalk
