#include "data/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cassert>
#include <charconv>
#include <filesystem>

#include "data/error.h"

namespace ropewalk {
namespace {

constexpr std::string_view kSpace = "\u2581";  // how a piece spells a space

// The byte that a piece "<0xE2>" stands for.
char byte_of(const std::string& piece) {
  int byte = 0;
  std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);
  return static_cast<char>(byte);
}

std::string with_spaces(std::string piece) {
  for (size_t at; (at = piece.find(kSpace)) != piece.npos;) piece.replace(at, kSpace.size(), " ");
  return piece;
}

// The lines of all documents, each with its newline, so that pieces may hold it.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::vector<std::string> documents) : documents_(std::move(documents)) { Next(); }

  bool done() const override { return document_ == documents_.size(); }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    while (!done() && at_ == documents_[document_].size()) {
      ++document_;
      at_ = 0;
    }
    if (done()) return;
    const std::string& text = documents_[document_];
    const size_t end = std::min({text.find('\n', at_), text.size() - 1, at_ + kLongest - 1}) + 1;
    line_ = text.substr(at_, end - at_);
    at_ = end;
  }

 private:
  static constexpr size_t kLongest = 4096;  // the trainer skips lines longer than 4192 bytes

  std::vector<std::string> documents_;
  size_t document_ = 0, at_ = 0;
  std::string line_;
};

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(const std::string& path)
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored))
    throw DataError(fmt::format("{}: no such file; expected a SentencePiece model", path));
  if (!processor_->Load(path).ok()) throw DataError(fmt::format("{}: is not a SentencePiece model", path));
  if (processor_->eos_id() < 0)
    throw DataError(fmt::format("{}: expected a model with an eos, which ends a document, given one without", path));
  std::vector<std::string> pieces;
  opens_with_space_ = processor_->Encode("a", &pieces).ok() && !pieces.empty() && pieces[0].starts_with(kSpace);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

int64_t SentencePieceTokenizer::vocabulary() const { return processor_->GetPieceSize(); }

std::optional<Token> SentencePieceTokenizer::end_of_document() const { return processor_->eos_id(); }

std::vector<Token> SentencePieceTokenizer::encode(std::string_view text) const {
  std::vector<int> tokens;
  const auto status = processor_->Encode(absl::string_view(text.data(), text.size()), &tokens);
  if (!status.ok()) throw DataError(fmt::format("SentencePiece: {}", status.ToString()));
  return tokens;
}

std::string SentencePieceTokenizer::text_of(Token token) const {
  assert(0 <= token && token < vocabulary());
  if (processor_->IsControl(token)) return "";
  if (processor_->IsUnknown(token)) return "\u2047";  // a double question mark, as SentencePiece shows it
  const std::string& piece = processor_->IdToPiece(token);
  return processor_->IsByte(token) ? std::string(1, byte_of(piece)) : with_spaces(piece);
}

std::string SentencePieceTokenizer::decode(std::span<const Token> tokens) const {
  std::string text = Tokenizer::decode(tokens);
  return opens_with_space_ && text.starts_with(' ') ? text.substr(1) : text;
}

std::string train_sentencepiece(const TextSource& text, const SentencePieceTraining& training) {
  Lines lines(read_documents(text));
  std::string model;
  // The number of threads is part of the result: the trainer adds up in the order of threads.
  const auto status = sentencepiece::SentencePieceTrainer::Train({{"model_type", training.model_type},
                                                                  {"vocab_size", std::to_string(training.vocabulary)},
                                                                  {"num_threads", "16"},
                                                                  {"byte_fallback", "true"},
                                                                  {"normalization_rule_name", "identity"},
                                                                  {"add_dummy_prefix", "false"},
                                                                  {"remove_extra_whitespaces", "false"},
                                                                  {"unk_id", "0"},
                                                                  {"bos_id", "-1"},
                                                                  {"eos_id", "1"},
                                                                  {"pad_id", "-1"},
                                                                  {"minloglevel", "2"}},
                                                                 &lines, &model);
  if (status.ok()) return model;
  const std::string reason = status.message();  // behind the place in the trainer's source and the failed check, if these are there
  const size_t at = reason.find("] ");
  throw Error(2,
              fmt::format("SentencePiece cannot train {} pieces: {}", training.vocabulary, reason.substr(at == reason.npos ? 0 : at + 2)));
}

}  // namespace ropewalk
