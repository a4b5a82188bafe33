// Proves that a layout changes nothing but speed: a model of every kind of sub-layer on every mesh of up to eight ranks, each with three
// steps of SGD and of AdamW, against the same on one rank: loss, gradients, norms and weights, in fp64.
// Usage: mpirun -n 8 parity_harness                     every mesh
//        mpirun -n 8 parity_harness --fuzz N --seed S   N random models on random meshes
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>

#include "parallel/comm/mpi/mpi_transport.h"
#include "tests/trainer/parity/every_mesh.h"
#include "tests/trainer/parity/random_case.h"

namespace ropewalk::testing {
namespace {

// Of the norm of all gradients. Some random parameters have a gradient of zero, such as a bias of keys without positions.
constexpr double kRounding = 1e-5;
constexpr double kTimeout = 300;  // seconds: of ranks whose case is done, for the others

void print_line(const ParityCase& parity, const ParityResult& result) {
  if (result.refused)
    std::cout << fmt::format("refused  {}: {}\n", parity.name, *result.refused);
  else
    std::cout << fmt::format("{}  {}: {:.1e} ({})\n", result.equal() ? "equal  " : "DIFFERS", parity.name, result.difference.error,
                             result.difference.of);
  std::cout.flush();
}

double worst_error(const std::vector<ParityResult>& results) {
  double worst = 0;
  for (const ParityResult& result : results) worst = std::max(worst, result.difference.error);
  return worst;
}

// Of the meshes of eight ranks: all there are, and how many of them a model must allow for to prove much.
constexpr int64_t kMeshesOfEight = 131, kLeastThatRun = 95;

// For no other reason than its size.
bool refused_for_size(const ParityResult& result) {
  const auto says = [&](const char* words) { return result.refused->find(words) != std::string::npos; };
  return result.refused && (says("expected a divisor") || says("expected a multiple") || says("stages (a sub-layer"));
}

bool prove_copies(const Group& world) {
  const std::vector<ParityResult> results = run_side_by_side(world, copied_groups_and_heads(), 0, print_line);
  return std::all_of(results.begin(), results.end(), [](const ParityResult& result) { return result.equal(); });
}

// Each mesh equal where its sizes fit, and else refused.
bool prove_every_mesh(const Group& world) {
  bool holds = world.size() < 8 || prove_copies(world);
  const std::vector<MeshCase> meshes = every_mesh(world.size());
  std::vector<ParityCase> cases;
  for (const MeshCase& mesh : meshes) cases.push_back(mesh.parity);
  const std::vector<ParityResult> results = run_side_by_side(world, cases, 0, print_line);
  int64_t ran = 0, fitting = 0;
  for (size_t i = 0; i < meshes.size(); ++i) {
    holds = holds && (meshes[i].runs ? results[i].equal() : refused_for_size(results[i]));
    ran += !results[i].refused;
    fitting += meshes[i].runs;
  }
  if (world.rank() == 0)
    std::cout << fmt::format("{} meshes: {} ran, {} refused; by their sizes {} fit; largest relative difference {:.1e}\n", meshes.size(),
                             ran, std::ssize(meshes) - ran, fitting, worst_error(results));
  const bool enough = world.size() < 8 || (std::ssize(meshes) == kMeshesOfEight && ran >= kLeastThatRun);
  return holds && enough && ran == fitting;
}

// Seeds from `seed` on; each is a case of its own, so that one that fails is repeated by itself.
bool prove_random_cases(const Group& world, int64_t count, uint64_t seed) {
  std::vector<ParityCase> cases;
  for (int64_t i = 0; i < count; ++i) cases.push_back(random_case(seed + static_cast<uint64_t>(i), world.size()));
  int64_t failed = 0;
  const auto report = [&](const ParityCase& parity, const ParityResult& result) {
    print_line(parity, result);
    if (!result.equal()) std::cout << fmt::format("  again: --fuzz 1 --seed {}\n{}", parity.packing, parity.config);
  };
  const std::vector<ParityResult> results = run_side_by_side(world, cases, kRounding, report);
  for (const ParityResult& result : results) failed += !result.equal();
  if (world.rank() == 0)
    std::cout << fmt::format("{} random cases from seed {}: {} failed; largest relative difference {:.1e}\n", count, seed, failed,
                             worst_error(results));
  return failed == 0;
}

}  // namespace
}  // namespace ropewalk::testing

int main(int argc, char** argv) {
  using namespace ropewalk;
  CLI::App app("A model of every kind of sub-layer on every mesh of up to as many ranks as there are, against one rank.");
  int64_t count = 0;
  uint64_t seed = 1;
  app.add_option("--fuzz", count, "Random models on random meshes in the place of every mesh: how many")->check(CLI::PositiveNumber);
  app.add_option("--seed", seed, "Of the first of them")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  const MpiSession session(&argc, &argv);
  const Group world = session.world(testing::kTimeout);
  const auto begin = std::chrono::steady_clock::now();
  try {
    const bool holds = count > 0 ? testing::prove_random_cases(world, count, seed) : testing::prove_every_mesh(world);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (world.rank() == 0) std::cout << fmt::format("{} after {:.0f} s\n", holds ? "passed" : "FAILED", seconds.count());
    return holds ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << fmt::format("rank {}: {}\n", world.rank(), error.what());
    MpiSession::abort(1);
  }
}
