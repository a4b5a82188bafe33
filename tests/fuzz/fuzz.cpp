#include "tests/fuzz/fuzz.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>

namespace ropewalk::fuzz {
namespace fs = std::filesystem;
namespace {

struct Folder {
  Folder() : path((fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path()) / ("fuzz-" + std::to_string(::getpid()))) {
    fs::create_directories(path);
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

}  // namespace

void require(bool holds, const char* what) {
  if (holds) return;
  std::cerr << what << '\n';
  std::abort();
}

const fs::path& scratch_folder() {
  static const Folder folder;
  return folder.path;
}

void write_file(const fs::path& path, const std::string& content) {
  std::ofstream stream(path, std::ios::binary);
  stream << content;
  stream.close();
  require(!stream.fail(), "a file of the target itself cannot be written");
}

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  require(static_cast<bool>(stream), "a file of the target itself cannot be read");
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace ropewalk::fuzz
