#include "trainer/config/config.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "trainer/config/sections.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

namespace fs = std::filesystem;

std::string read_file(const std::string& file) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) throw ConfigError(fmt::format("{}: cannot be read: a folder", file));
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw ConfigError(fmt::format("{}: cannot be read: {}", file, std::strerror(errno)));
  return {std::istreambuf_iterator<char>(stream), {}};
}

Value with_bases(Value tree, const std::vector<std::string>& readers);

// The tree of a base file, merged over its own bases. `readers` are the files on the way here.
Value read_base(const Value& base, const std::string& key, std::vector<std::string> readers) {
  if (base.type != Value::kScalar) throw ConfigError(base.where, key, fmt::format("expected a file, given {}", describe(base)));
  const std::string file = (fs::path(readers.back()).parent_path() / base.scalar).lexically_normal().string();
  const bool round = std::find(readers.begin(), readers.end(), file) != readers.end();
  readers.push_back(file);
  if (round) throw ConfigError(base.where, key, fmt::format("goes round in a circle: {}", join(readers, " -> ")));
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) throw ConfigError(base.where, key, fmt::format("no such file: {}", file));
  return with_bases(parse_yaml(read_file(file), file), readers);
}

// Merges the tree over its bases, each of them over those before it.
Value with_bases(Value tree, const std::vector<std::string>& readers) {
  const Value* base = tree.find("base");
  if (!base) return tree;
  Value merged;
  if (base->type == Value::kList) {
    for (const Value& one : base->children) merge(merged, read_base(one, "base." + one.key, readers));
  } else {
    merged = read_base(*base, "base", readers);
  }
  tree.children.remove_if([](const Value& child) { return child.key == "base"; });
  merge(merged, tree);
  return merged;
}

void apply_override(Value& tree, const std::string& text) {
  const size_t equals = text.find('=');
  const std::string path = text.substr(0, equals);
  const bool malformed = equals == std::string::npos || path.empty() || path.front() == '.' || path.back() == '.' ||
                         path.find("..") != std::string::npos || path.find_first_of(" \t") != std::string::npos;
  if (malformed) throw ConfigError(fmt::format("command line: expected key.path=value, given {}", text));
  assign(tree, path, parse_yaml(text.substr(equals + 1), "", path));
}

void list_places(const Value& value, const std::string& path, std::map<std::string, Where>& places) {
  places[path] = value.where;
  for (const Value& child : value.children) list_places(child, dotted(path, child.key), places);
}

Options read_options(const Node& root, const std::string& default_dir) {
  Options options;
  options.model = read_model(root["model"].about("The model: a stack of sub-layers, each with a norm before it and a residual around it."),
                             options.tokenizer);
  options.optimizer = read_optimizer(
      root["optimizer"].about("What updates the weights; groups of parameters may have values and a schedule of their own."));
  options.data = read_data(root["data"].about("What the model is trained on."), options.tokenizer);
  options.train = read_train(root["train"].about("How long, in which portions and at which precision."));
  options.parallel = read_parallel(root["parallel"].about(
      "The mesh of ranks: pipeline x data x context x tensor. What the other degrees leave of the ranks is `data`."));
  options.checkpoint =
      read_checkpoint(root["checkpoint"].about("When to save, and what to keep. A run always saves at its end and on USR1."));
  options.run = read_run(root["run"].about("Where the run is, and how it goes on."), default_dir);
  root.refuse_unknown_keys();
  return options;
}

}  // namespace

Where Config::where(const std::string& key) const {
  if (const auto place = places.find(key); place != places.end()) return place->second;
  if (key.empty()) return {};
  const size_t dot = key.rfind('.');
  return where(dot == std::string::npos ? "" : key.substr(0, dot));
}

Config parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& overrides) {
  Value tree = with_bases(parse_yaml(text, name), {fs::path(name).lexically_normal().string()});
  for (const std::string& text_of_override : overrides) apply_override(tree, text_of_override);
  Config config;
  list_places(tree, "", config.places);
  Value resolved;
  config.options = read_options(Node(tree, resolved), "runs/" + fs::path(name).stem().string());
  config.resolved = print_yaml(resolved);
  return config;
}

Config load_config(const std::string& file, const std::vector<std::string>& overrides) {
  return parse_config(read_file(file), file, overrides);
}

void describe_config(const std::string& text, Description& description) {
  Value resolved;
  const Value tree = parse_yaml(text, "reference");
  read_options(Node(tree, resolved, &description), "");
}

void require(const Config& config, const std::vector<std::string>& keys, const char* purpose) {
  for (const std::string& key : keys)
    if (!config.given(key)) throw config.error(key, "required {}, not given", purpose);
}

void require_trainable(const Config& config) {
  require(config, {"data.source", "data.seq_len", "train.steps", "train.batch", "optimizer.lr"}, "to train");
}

}  // namespace ropewalk
