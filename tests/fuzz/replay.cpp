// Usage: fuzz_TARGET PATH...    reads files, and all files in folders, once each: the seeds and what has crashed before
#include <iostream>

#include "tests/fuzz/fuzz.h"

namespace {

namespace fs = std::filesystem;

void replay(const fs::path& file) {
  std::cout << file.string() << std::endl;  // before it crashes
  ropewalk::fuzz::run_one(ropewalk::fuzz::read_file(file));
}

}  // namespace

int main(int argc, char** argv) {
  int files = 0;
  for (int i = 1; i < argc; ++i) {
    if (!fs::is_directory(argv[i])) {
      replay(argv[i]);
      ++files;
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(argv[i])) {
      if (!entry.is_regular_file()) continue;
      replay(entry.path());
      ++files;
    }
  }
  return files > 0 ? 0 : 1;
}
