#include "trainer/logging.h"

#include <spdlog/cfg/helpers.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <cstdlib>

namespace ropewalk {

void start_logging() {
  spdlog::set_pattern("%v");
  if (const char* level = std::getenv("ROPEWALK_LOG")) spdlog::cfg::helpers::load_levels(level);
}

void log_to_file(const std::string& path) {
  auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
  sink->set_pattern("%Y-%m-%d %H:%M:%S %l: %v");
  spdlog::default_logger()->sinks().push_back(std::move(sink));
  spdlog::flush_on(spdlog::level::info);
}

}  // namespace ropewalk
