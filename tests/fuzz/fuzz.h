// What the targets share. A target is a file that defines run_one; libFuzzer calls it with inputs that it makes up (preset fuzz),
// replay.cpp with those that are kept (every other preset).
#pragma once

#include <filesystem>
#include <string>

namespace ropewalk::fuzz {

// Reads one input. Returns, whatever the input is: the errors that the reader documents are caught, and nothing else.
void run_one(const std::string& input);

// Prints what does not hold, and ends the process as a crash does.
void require(bool holds, const char* what);

// A folder of this process, in memory where the system has such files; gone at exit.
const std::filesystem::path& scratch_folder();
void write_file(const std::filesystem::path& path, const std::string& content);
std::string read_file(const std::filesystem::path& path);

}  // namespace ropewalk::fuzz
