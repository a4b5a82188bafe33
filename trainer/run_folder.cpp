#include "trainer/run_folder.h"

#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/error.h"

namespace ropewalk {
namespace {
namespace fs = std::filesystem;

void write_file(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + ".partial";
  {
    std::ofstream file(temporary, std::ios::binary);
    file << text;
    if (!file.flush()) throw Error(3, fmt::format("{}: cannot be written; is the disk full?", path.string()));
  }
  fs::rename(temporary, path);
}

std::string environment(int ranks) {
  char host[256] = "?";
  gethostname(host, sizeof host - 1);
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line, cpu = "?";
  while (std::getline(cpuinfo, line))
    if (line.starts_with("model name")) cpu = line.substr(line.find(':') + 2);
  const char* threads = std::getenv("OMP_NUM_THREADS");
  return fmt::format("host: {}\nranks: {}\ncpu: {}\ncores: {}\nOMP_NUM_THREADS: {}\n", host, ranks, cpu,
                     std::thread::hardware_concurrency(), threads ? threads : "unset");
}

}  // namespace

void RunFolder::begin(const std::string& config, int ranks, int64_t step) {
  std::error_code failed;
  fs::create_directories(checkpoints(), failed);
  if (failed) throw Error(2, fmt::format("run.dir: {}: cannot be made: {}", path_, failed.message()));
  write_file(path_ + "/config.yaml", config);
  write_file(path_ + "/environment.txt", environment(ranks));
  cut_metrics(step);
  metrics_.open(path_ + "/metrics.jsonl", std::ios::app);
  events_.open(path_, step);
}

void RunFolder::cut_metrics(int64_t step) const {
  const std::string path = path_ + "/metrics.jsonl";
  std::ifstream old(path);
  if (!old) return;
  std::string kept, line;
  while (std::getline(old, line)) {
    const auto metrics = nlohmann::json::parse(line, nullptr, false);  // a killed run may have left half a line
    if (metrics.is_object() && metrics.value("step", step + 1) <= step) kept += line + "\n";
  }
  write_file(path, kept);
}

void RunFolder::write_trace(const std::string& trace, int rank) const {
  write_file(fmt::format("{}/trace-rank{:05}.json", path_, rank), trace);
}

void RunFolder::append(const nlohmann::ordered_json& metrics) {
  metrics_ << metrics.dump() << std::endl;
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [key, value] : metrics.items())
    if (key != "step" && value.is_number()) scalars.emplace_back(key, value.get<double>());
  events_.append(metrics.at("step"), scalars);
}

}  // namespace ropewalk
