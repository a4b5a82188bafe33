#include "data/text_source.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include "data/error.h"

namespace ropewalk {
namespace {

namespace fs = std::filesystem;

DataError unreadable(const std::string& key, const fs::path& path, const std::error_code& reason) {
  return DataError(
      fmt::format("{}: cannot read {}: {}; expected a file or folder of text (relative paths are taken from the working folder, {})", key,
                  path.string(), reason.message(), fs::current_path().string()));
}

std::vector<fs::path> files_below(const std::string& key, const fs::path& folder) try {
  std::vector<fs::path> files;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
    const bool hidden = entry->path().filename().string().starts_with('.');
    if (hidden) entry.disable_recursion_pending();
    if (!hidden && entry->is_regular_file()) files.push_back(entry->path());
  }
  std::sort(files.begin(), files.end());
  return files;
} catch (const fs::filesystem_error& error) {
  throw unreadable(key, error.path1().empty() ? folder : error.path1(), error.code());
}

std::string read_file(const std::string& key, const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  std::array<char, 1 << 16> block;
  while (file.read(block.data(), block.size()), file.gcount() > 0) text.append(block.data(), file.gcount());
  if (!file.eof()) throw unreadable(key, path, std::error_code(errno, std::generic_category()));
  return text;
}

std::vector<std::string> split_at_form_feeds(std::string_view text) {
  std::vector<std::string> documents;
  for (size_t end; (end = text.find('\f')) != text.npos; text.remove_prefix(end + 1)) documents.emplace_back(text.substr(0, end));
  documents.emplace_back(text);
  return documents;
}

std::vector<std::string> split_at_blank_lines(std::string_view text) {
  std::vector<std::string> documents(1);
  while (!text.empty()) {
    const std::string_view line = text.substr(0, std::min(text.find('\n'), text.size() - 1) + 1);
    text.remove_prefix(line.size());
    const bool blank = line.find_first_not_of(" \t\r\n") == line.npos;
    if (!blank) {
      documents.back() += line;
    } else if (!documents.back().empty()) {
      documents.emplace_back();
    }
  }
  return documents;
}

std::vector<std::string> split(std::string text, DocumentEnd end) {
  switch (end) {
    case DocumentEnd::kFormFeed: return split_at_form_feeds(text);
    case DocumentEnd::kBlankLine: return split_at_blank_lines(text);
    default: return {std::move(text)};
  }
}

}  // namespace

void for_each_document(const TextSource& source, const std::function<void(std::string)>& take) {
  std::error_code ignored;  // what is not a folder is read as a file, and that says what is wrong with it
  const bool folder = fs::is_directory(source.path, ignored);
  bool any = false;
  for (const fs::path& file : folder ? files_below(source.key, source.path) : std::vector{fs::path(source.path)}) {
    for (std::string& document : split(read_file(source.key, file), source.documents)) {
      if (document.empty()) continue;
      any = true;
      take(std::move(document));
    }
  }
  if (!any)
    throw DataError(
        fmt::format("{}: expected at least one document in {}, found none; name a text that is not empty", source.key, source.path));
}

std::vector<std::string> read_documents(const TextSource& source) {
  std::vector<std::string> documents;
  for_each_document(source, [&](std::string document) { documents.push_back(std::move(document)); });
  return documents;
}

}  // namespace ropewalk
