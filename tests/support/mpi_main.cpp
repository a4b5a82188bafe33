// The main of a test binary that runs as several ranks: rank 0 prints, the others only what fails on them; all end with one exit code.
#include <gtest/gtest.h>

#include <iostream>

#include "parallel/comm/mpi/mpi_transport.h"
#include "tests/support/ranks.h"

namespace ropewalk::testing {
namespace {

constexpr double kTimeout = 120;  // seconds: a rank whose test failed may have left the others waiting; a slow one is still on its way

const MpiSession* session = nullptr;
const Group* all = nullptr;

class FailurePrinter : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo& test) override { test_ = fmt::format("{}.{}", test.test_suite_name(), test.name()); }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const char* const file = result.file_name();
    std::cerr << fmt::format("rank {}: {}: {}:{}: {}\n", all->rank(), test_, file ? file : "", result.line_number(), result.message());
  }

  std::string test_;
};

int run() {
  if (all->rank() > 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  const bool failed = RUN_ALL_TESTS() != 0;
  return all->any(failed, "verdict") ? 1 : 0;
}

}  // namespace

const Group& world() { return *all; }
Group world_with_timeout(double seconds) { return session->world(seconds); }

}  // namespace ropewalk::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const ropewalk::MpiSession session(&argc, &argv);
  const ropewalk::Group world = session.world(ropewalk::testing::kTimeout);
  ropewalk::testing::session = &session;
  ropewalk::testing::all = &world;
  try {
    return ropewalk::testing::run();
  } catch (const ropewalk::CommError& error) {
    std::cerr << error.what() << '\n';
    ropewalk::MpiSession::abort(error.exit_code());
  }
}
