#include <gmock/gmock.h>

#include "kernels/tensor/memory.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"

namespace ropewalk {
namespace {

using testing::random_slice;
using testing::random_tensor;

// What a tensor does on every device, against what it does on the host.
class OnEachDevice : public ::testing::Test {
 protected:
  template <class Body>
  void each(const Body& body) {
    for (const Device device : testing::devices()) {
      SCOPED_TRACE(device.is_cuda() ? "on the GPU" : "on the host");
      body(device);
    }
  }
};

TEST_F(OnEachDevice, TensorsComeBackAsTheyWent) {
  each([](Device device) {
    for (const Tensor& x : {random_tensor({3, 70}, 1), random_slice({2, 3, 7}, 1), Tensor::from<int64_t>({2}, {1, -5}),
                            Tensor::zeros({0}, DType::kFloat32)}) {
      const Tensor there = x.to(device);
      EXPECT_EQ(there.device(), device);
      EXPECT_EQ(there.to_vector<double>(), x.to_vector<double>());
    }
  });
}

TEST_F(OnEachDevice, CopiesConvertBetweenViews) {
  each([](Device device) {
    for (const DType from : {DType::kFloat32, DType::kBFloat16})
      for (const DType to : {DType::kFloat32, DType::kBFloat16})
        for (const Tensor& x : {random_tensor({5, 64}, 1, 1, from), random_slice({2, 3, 7}, 1, 1, from),
                                random_tensor({4, 6, 8}, 1, 1, from).narrow(1, 1, 3)}) {
          const Tensor there = testing::on(device, x), target = Tensor::full(x.shape().with(0, x.dim(0) + 1), 7, to, device);
          target.narrow(0, 1, x.dim(0)).copy_from(there);
          EXPECT_EQ(target.narrow(0, 1, x.dim(0)).to_vector<double>(), x.to(to).to_vector<double>());
          EXPECT_EQ(target.select(0, 0).to_vector<double>().front(), 7);
        }
  });
}

TEST_F(OnEachDevice, AddsInTheWideType) {
  each([](Device device) {
    const Tensor x = random_tensor({6, 40}, 1, 1, DType::kFloat32), y = random_slice({6, 40}, 2, 1, DType::kBFloat16),
                 sum = x.contiguous_copy();
    sum.add(y);
    const Tensor there = x.to(device).contiguous_copy();
    there.add(testing::on(device, y));
    EXPECT_EQ(there.to_vector<float>(), sum.to_vector<float>());
  });
}

}  // namespace
}  // namespace ropewalk
