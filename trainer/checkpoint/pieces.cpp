#include "trainer/checkpoint/pieces.h"

#include <xxhash.h>

#include <algorithm>

#include "trainer/checkpoint/checkpoint_folder.h"

namespace ropewalk {
namespace {

constexpr int64_t kReadAhead = 1 << 16;  // read at least this much of a piece that was checked before: small tensors lie side by side
constexpr size_t kMaxOpen = 256;         // descriptors: the usual limit of a process is 1024

}  // namespace

uint64_t checksum(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

void PieceWriter::append(std::string_view bytes) {
  while (!bytes.empty()) {
    if (tail_.empty() && bytes.size() >= kPieceBytes) {  // a large tensor goes to the file from where it lies
      write_piece(bytes.substr(0, kPieceBytes));
      bytes.remove_prefix(kPieceBytes);
      continue;
    }
    const std::string_view next = bytes.substr(0, kPieceBytes - tail_.size());
    tail_.append(next);
    bytes.remove_prefix(next.size());
    if (tail_.size() == kPieceBytes) {
      write_piece(tail_);
      tail_.clear();
    }
  }
}

void PieceWriter::write_piece(std::string_view piece) {
  file_.append(piece.data(), static_cast<int64_t>(piece.size()));
  entry_.checksums.push_back(checksum(piece));
  entry_.bytes += static_cast<int64_t>(piece.size());
}

FileEntry PieceWriter::finish() {
  if (!tail_.empty()) write_piece(tail_);
  tail_.clear();
  file_.sync();
  return std::move(entry_);
}

PieceReader::PieceReader(std::string folder, const std::vector<FileEntry>& files, Describe describe)
    : folder_(std::move(folder)), files_(files), describe_(std::move(describe)) {
  for (const FileEntry& file : files_) checked_.emplace_back(file.checksums.size());
}

std::string_view PieceReader::at(int file, int64_t offset, int64_t count) {
  if (held_ != file || offset < begin_ || offset >= end_) load(file, offset, count);
  return {buffer_.data() + (offset - begin_), static_cast<size_t>(std::min(count, end_ - offset))};
}

std::string PieceReader::copy(int file, int64_t offset, int64_t count) {
  std::string bytes;
  while (static_cast<int64_t>(bytes.size()) < count) {
    const auto done = static_cast<int64_t>(bytes.size());
    bytes += at(file, offset + done, count - done);
  }
  return bytes;
}

void PieceReader::verify(int file) {
  open_.erase(file);
  held_ = -1;
  checked_[file].assign(checked_[file].size(), false);
  open(file);
  for (int64_t offset = 0; offset < files_[file].bytes; offset += kPieceBytes) at(file, offset, kPieceBytes);
}

const File& PieceReader::open(int file) {
  if (const auto found = open_.find(file); found != open_.end()) return found->second;
  if (open_.size() >= kMaxOpen) open_.clear();
  const int64_t bytes = files_[file].bytes;
  try {
    File opened = File::open(path(file));
    if (opened.size() != bytes) throw CheckpointError("{}: expected {} bytes, found {}", path(file), bytes, opened.size());
    return open_.emplace(file, std::move(opened)).first->second;
  } catch (const CheckpointError& error) {
    refuse(file, 0, bytes, error.what());
  }
}

// The header lies before every tensor and belongs to all of them: a file's first reader checks it too.
void PieceReader::check_header(int file) {
  for (int64_t piece = 0; piece * kPieceBytes < files_[file].header_bytes; ++piece)
    if (!checked_[file][piece]) load_piece(file, piece);
}

void PieceReader::load(int file, int64_t offset, int64_t count) {
  const int64_t piece = offset / kPieceBytes;
  check_header(file);
  if (!checked_[file][piece]) return load_piece(file, piece);
  const int64_t piece_end = std::min((piece + 1) * kPieceBytes, files_[file].bytes);
  fill(file, offset, std::min(offset + std::max(count, kReadAhead), piece_end));
}

void PieceReader::load_piece(int file, int64_t piece) {
  fill(file, piece * kPieceBytes, std::min((piece + 1) * kPieceBytes, files_[file].bytes));
  const uint64_t expected = files_[file].checksums[piece], found = checksum({buffer_.data(), static_cast<size_t>(end_ - begin_)});
  if (found != expected) {
    held_ = -1;
    refuse(file, begin_, end_,
           fmt::format("{}: checksum of piece {}: expected {:016x}, found {:016x}", path(file), piece, expected, found));
  }
  checked_[file][piece] = true;
}

void PieceReader::fill(int file, int64_t begin, int64_t end) {
  held_ = -1;
  buffer_.resize(std::max(buffer_.size(), static_cast<size_t>(end - begin)));
  const File& opened = open(file);
  try {
    opened.read(buffer_.data(), begin, end - begin);
  } catch (const CheckpointError& error) {
    refuse(file, begin, end, error.what());
  }
  held_ = file;
  begin_ = begin;
  end_ = end;
}

void PieceReader::refuse(int file, int64_t begin, int64_t end, const std::string& why) const {
  throw CheckpointError("{}; bytes {} to {} hold {}; {}", why, begin, end, describe_(file, begin, end), way_out(folder_));
}

}  // namespace ropewalk
