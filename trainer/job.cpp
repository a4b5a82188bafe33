#include "trainer/job.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/tensor/isa.h"

namespace ropewalk {
namespace {

bool first_rank() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return !rank || std::atoi(rank) == 0;
}

void complain(const std::string& line) {
  fmt::print(stderr, "ropewalk: {}\n", line);
  std::fflush(stderr);
}

}  // namespace

Job::Job(int* argc, char*** argv) : session_(argc, argv, complain) {}

int Job::run(const std::function<void()>& verb) const {
  try {
    isa();  // a wrong ROPEWALK_ISA is refused here, since nothing may throw where threads compute
    verb();
    return 0;
  } catch (const Error& error) {
    const bool everywhere = error.reach() == Error::Reach::kEveryRank;
    if (!everywhere || first_rank()) complain(error.what());
    if (!everywhere) MpiSession::abort(error.exit_code());
    return error.exit_code();
  } catch (const std::exception& error) {
    complain(fmt::format("internal error: {}", error.what()));
    MpiSession::abort(1);
  }
}

}  // namespace ropewalk
