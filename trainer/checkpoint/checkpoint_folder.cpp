#include "trainer/checkpoint/checkpoint_folder.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "trainer/checkpoint/file.h"
#include "trainer/checkpoint/manifest.h"

namespace ropewalk {
namespace {

constexpr const char* kPrefix = "step-";
constexpr size_t kDigits = 8;

std::string hidden(const std::string& root, const std::string& name, const char* ending) { return root + "/." + name + ending; }
std::string replaced(const std::string& root, const std::string& name) { return hidden(root, name, ".replaced"); }

bool complete(const std::string& folder) { return exists(folder + "/" + kManifestName); }

std::optional<int64_t> step_of(const std::string& name) {
  const std::string digits = name.substr(std::min(name.size(), std::string(kPrefix).size()));
  if (!name.starts_with(kPrefix) || digits.size() < kDigits || digits.size() > 18) return std::nullopt;
  if (digits.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  const int64_t step = std::stoll(digits);
  return checkpoint_name(step) == name ? std::optional(step) : std::nullopt;
}

std::vector<std::string> names_in(const std::string& root) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(root, error), end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename());
  if (error && exists(root)) throw CheckpointError("{}: cannot read the folder: {}", root, error.message());
  return names;
}

std::vector<int64_t> complete_steps(const std::string& root) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(root))
    if (const auto step = step_of(name); step && complete(root + "/" + name)) steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<int64_t> latest_step(const std::string& root) {
  const std::string path = root + "/latest";
  if (!exists(path)) return std::nullopt;
  const std::string text = read_file(path);
  const auto step = text.ends_with('\n') ? step_of(text.substr(0, text.size() - 1)) : std::nullopt;
  if (!step)
    throw CheckpointError("{}: expected a line like {}, found \"{}\"; name a checkpoint by run.resume=PATH, or delete this file", path,
                          checkpoint_name(100), text.substr(0, 40));
  return step;
}

void set_latest(const std::string& root, const std::string& name) {
  const std::string fresh = root + "/.latest.partial";
  write_durably(fresh, name + "\n");
  rename_path(fresh, root + "/latest");
  sync_folder(root);
}

// Puts right what a killed job left: a replacement cut short is undone, anything else under a hidden name goes.
void tidy(const std::string& root) {
  for (const std::string& name : names_in(root)) {
    if (!name.starts_with(std::string(".") + kPrefix)) continue;
    const std::string final_name = name.substr(1, name.rfind('.') - 1), path = root + "/" + name;
    if (name.ends_with(".replaced") && !exists(root + "/" + final_name))
      rename_path(path, root + "/" + final_name);
    else
      remove_path(path);
  }
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:0{}}", kPrefix, step, kDigits); }

std::string partial_checkpoint(const std::string& root, int64_t step) { return hidden(root, checkpoint_name(step), ".partial"); }

std::string start_checkpoint(const std::string& root, int64_t step) {
  make_folder(root);
  sync_folder(root + "/..");
  tidy(root);
  const std::string folder = partial_checkpoint(root, step);
  make_folder(folder);
  return folder;
}

std::string publish_checkpoint(const std::string& root, int64_t step) {
  const std::string name = checkpoint_name(step), folder = root + "/" + name, partial = partial_checkpoint(root, step);
  sync_folder(partial);
  if (exists(folder)) rename_path(folder, replaced(root, name));
  rename_path(partial, folder);
  sync_folder(root);
  set_latest(root, name);
  remove_path(replaced(root, name));
  return folder;
}

void discard_checkpoint(const std::string& root, int64_t step) noexcept {
  std::error_code ignored;  // the error that led here is the one to report; what stays, the next writer removes
  std::filesystem::remove_all(partial_checkpoint(root, step), ignored);
}

std::optional<std::string> newest_checkpoint(const std::string& root) {
  if (const auto step = latest_step(root)) {
    const std::string name = checkpoint_name(*step);
    if (complete(root + "/" + name)) return root + "/" + name;
    if (complete(replaced(root, name))) return replaced(root, name);  // a job died between the two renames that replace it
    throw CheckpointError("{}/latest: names {}, which is missing or has no {}; {}", root, name, kManifestName, way_out(root + "/" + name));
  }
  const std::vector<int64_t> steps = complete_steps(root);
  if (steps.empty()) return std::nullopt;
  return root + "/" + checkpoint_name(steps.back());
}

void retain_checkpoints(const std::string& root, int64_t keep, int64_t keep_every) {
  std::vector<int64_t> steps = complete_steps(root);
  if (steps.empty()) return;
  const int64_t newest = latest_step(root).value_or(steps.back());
  std::erase_if(steps, [&](int64_t step) { return step > newest; });
  for (int64_t i = 0; i < static_cast<int64_t>(steps.size()) - keep; ++i) {
    if (steps[i] == newest || (keep_every > 0 && steps[i] % keep_every == 0)) continue;
    const std::string name = checkpoint_name(steps[i]), removed = hidden(root, name, ".removed");
    rename_path(root + "/" + name, removed);
    remove_path(removed);
  }
}

std::string way_out(const std::string& folder) {
  const std::filesystem::path path(folder);
  const std::string root = path.has_parent_path() ? path.parent_path().string() : ".";
  const auto step = step_of(path.filename());
  std::optional<int64_t> before;
  for (const int64_t other : complete_steps(root))
    if (step && other < *step) before = other;
  return "take an older checkpoint by run.resume=" + (before ? root + "/" + checkpoint_name(*before) : "PATH");
}

}  // namespace ropewalk
