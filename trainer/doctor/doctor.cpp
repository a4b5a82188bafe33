#include "trainer/doctor/doctor.h"

#include <fmt/format.h>
#include <omp.h>

#include "kernels/ceilings/ceilings.h"
#include "kernels/matmul/matmul.h"
#include "kernels/tensor/isa.h"
#include "kernels/tensor/memory.h"
#include "trainer/doctor/op_list.h"

namespace ropewalk {
namespace {

constexpr double kGiga = 1e9, kTera = 1e12, kMilli = 1e-3;

double seconds_since(int64_t begin) { return static_cast<double>(now_ns() - begin) * 1e-9; }

// Of several, the shortest; the first is to warm up.
template <class Body>
double shortest(Device device, const Body& body) {
  double best = 1e30;
  for (int i = 0; i < 6; ++i) {
    synchronize(device);
    const int64_t begin = now_ns();
    body();
    synchronize(device);
    if (i > 0) best = std::min(best, seconds_since(begin));
  }
  return best;
}

double product_rate(Device device, DType dtype) {
  constexpr int64_t kSize = 8192;
  const Tensor a = Tensor::full({kSize, kSize}, 0.5, dtype, device), b = Tensor::full({kSize, kSize}, 0.25, dtype, device),
               c = Tensor::zeros({kSize, kSize}, dtype, device);
  return 2.0 * kSize * kSize * kSize / shortest(device, [&] { launch(device, MatMul{.c = c, .a = a, .b = b, .transpose_b = true}); });
}

std::string device_rates() {
  constexpr int64_t kBytes = 1 << 30;
  const Device device = Cuda{};
  const Tensor from = Tensor::full({kBytes / 4}, 1, DType::kFloat32, device), to = empty_like(from),
               host = Tensor::full({kBytes / 16}, 1, DType::kFloat32), there = Tensor::empty(host.shape(), host.dtype(), device);
  const double copy = 2.0 * kBytes / shortest(device, [&] { to.copy_from(from); }),
               up = static_cast<double>(host.bytes()) / shortest(device, [&] { there.copy_from(host); }),
               down = static_cast<double>(host.bytes()) / shortest(device, [&] { host.copy_from(there); });
  return fmt::format("device    {}\n", describe(device)) +
         fmt::format("memory    {:.2f} TB/s copied on the device; {:.1f} GB/s to it and {:.1f} GB/s from it (pageable)\n", copy / kTera,
                     up / kGiga, down / kGiga) +
         fmt::format("products  {:.1f} TFLOP/s bf16, {:.1f} TFLOP/s fp32\n", product_rate(device, DType::kBFloat16) / kTera,
                     product_rate(device, DType::kFloat32) / kTera);
}

std::string host_rates() {
  const Ceilings ceilings = measure_ceilings();
  return fmt::format("host      {}, {} threads; {:.0f} GFLOP/s fp32, {:.0f} GFLOP/s bf16, {:.1f} GB/s copied\n", name_of(isa()),
                     omp_get_max_threads(), ceilings.fp32 / kGiga, ceilings.bf16 / kGiga, measure_memory() / kGiga);
}

std::string row(const OpCheck& check, DType dtype, const OpVerdict& verdict) {
  const double work = verdict.flops > 0 ? verdict.flops / kTera : verdict.bytes / kTera;
  return fmt::format("{:<18} {:<5} {:<40} {:>8.1e} {:>8.1e} {:>9.3f} {:>9.3f} {:>8.2f} {:<8} {}\n", check.name, name_of(dtype), check.size,
                     verdict.output_error, verdict.gradient_error, verdict.forward_seconds / kMilli, verdict.backward_seconds / kMilli,
                     work / verdict.forward_seconds, verdict.flops > 0 ? "TFLOP/s" : "TB/s", verdict.passed ? "ok" : "FAILED");
}

// An op that ends with an error has failed; the others are tried all the same.
std::string checked(const OpCheck& check, DType dtype, Device device, bool& healthy) {
  try {
    const OpVerdict verdict = verdict_of(check, device);
    healthy = healthy && verdict.passed;
    return row(check, dtype, verdict);
  } catch (const Error& error) {
    healthy = false;
    return fmt::format("{:<18} {:<5} {:<40} FAILED: {}\n", check.name, name_of(dtype), check.size, error.what());
  }
}

}  // namespace

Diagnosis diagnose() {
  const bool gpu = available(Cuda{});
  const Device device = gpu ? Device(Cuda{}) : Device();
  Diagnosis diagnosis{.report = fmt::format("program   {}\n", ROPEWALK_VERSION), .healthy = true};
  diagnosis.report += host_rates();
  diagnosis.report += gpu ? device_rates() : std::string("device    none that this program can use: the host's ops are tried\n");
  diagnosis.report += fmt::format("\n{:<18} {:<5} {:<40} {:>8} {:>8} {:>9} {:>9} {:>8}\n", "op", "", "size", "output", "gradient", "fwd ms",
                                  "bwd ms", "forward");
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32})
    for (const OpCheck& check : op_list(gpu ? CheckSize{.tokens = 4096, .width = 2048} : CheckSize{.tokens = 256, .width = 256}, dtype))
      diagnosis.report += checked(check, dtype, device, diagnosis.healthy);
  return diagnosis;
}

}  // namespace ropewalk
