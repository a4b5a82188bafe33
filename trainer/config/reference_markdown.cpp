// docs/config.md: a table for each section, and one for each alternative set of keys.
#include <fmt/format.h>

#include <algorithm>

#include "trainer/config/reference.h"
#include "trainer/config/words.h"
#include "trainer/config/yaml.h"

namespace ropewalk {
namespace {

constexpr const char* kHead = R"(# Configuration reference

Printed by `build/release/config_reference` from what the program reads: change the readers in `trainer/config/`, not this page.

A run is described by one YAML file. It is strict: an unknown key, a wrong type or an impossible combination stops the run before anything is
allocated, naming file, line and key. `ropewalk VERB FILE key.path=value ...` overrides single values, whole mappings or list items
(`optimizer.groups.0.lr=1e-3`); an override may name a section that the file lacks.

`base:` names a file that this one overrides key by key, or a list of files, each overriding those before it; mappings merge, anything else is replaced. A
base's path is taken from the file that names it, all other relative paths from the working folder. The resolved configuration, with every
default filled in, is the run folder's `config.yaml`.

Editors that know YAML language servers check a file against `configs/schema.json` when it begins with a line like
`# yaml-language-server: $schema=../schema.json`. The schema asks for no key, since a base may have given it; the program does.

## Layouts

A layer is one character of a `pattern`, one entry of `units`, or one mixer with its ffn under `ratio` and `rules`. Exactly one of the four says
which layers there are.

- `pattern: "MFMFAF"`: block names of one character, or symbols for any: `{symbols: {M: M, "*": A}, string: "MM*"}`.
- `{ratio: "7:1", of: [M, A], layers: 8, ffn: F}`: two mixers in a ratio, each followed by the ffn.
- `rules: {layers: 32, mixer: {A: i % 8 == 4, else: M}, ffn: {E: i % 2 == 1, else: F}}`: for mixers and ffns the first block whose condition holds, or
  what `else` names. A block's name in the place of rules goes everywhere; `none` is no block.
- `units: [{repeat: 7, layers: [[M, F], [M, E], A]}]`: layers spelled out, each one block or a list of any length.

A condition is made of the layer's number `i`, counted from 0, integers, `+ - * %`, `== != < <= > >=`, `in [2, 5]`, `not in`, `and`, `or`, `not` and
parentheses. A remainder has the sign of its right side: `(i - 1) % 3` is 2 for `i` = 0.
)";

std::string code(const std::string& text) { return "`" + text + "`"; }

std::string path_of(const std::string& path, const Description& child) {
  if (child.key == "[]") return path + "[]";
  return dotted(path, child.key == "*" ? "NAME" : child.key);
}

// "a positive integer" without its article.
std::string bare(const std::string& words) {
  for (const std::string article : {"a ", "an "})
    if (words.starts_with(article)) return words.substr(article.size());
  return words;
}

std::string type_of(const Description& d) {
  std::vector<std::string> types;
  for (const ValueForm& form : d.forms) {
    std::vector<std::string> names = form.names;
    std::transform(names.begin(), names.end(), names.begin(), code);
    types.push_back(form.type == ValueForm::kChoice ? join_or(names) : form.type == ValueForm::kNull ? code("null") : bare(form.words));
  }
  if (d.is_list()) {
    const std::string items = type_of(d.children.front());
    types.push_back(items == "mapping" ? "list of mappings" : fmt::format("list ({})", items));
  } else if (!d.children.empty() || !d.alternatives.empty()) {
    types.push_back("mapping");
  }
  if (!d.same_as.empty()) types.push_back("as " + code(d.same_as));
  return join_or(types);
}

std::string default_of(const Description& d, const Description& parent) {
  if (std::find(parent.one_of.begin(), parent.one_of.end(), d.key) != parent.one_of.end()) {
    std::vector<std::string> keys = parent.one_of;
    std::transform(keys.begin(), keys.end(), keys.begin(), code);
    return "one of " + join_or(keys);
  }
  if (!d.otherwise_words.empty()) return d.otherwise_words;
  if (!d.otherwise.empty()) return code(d.otherwise);
  return d.required && !d.optional ? "required" : "";
}

// The items of a list of plain values say what the list holds; they are no row of their own.
bool has_row(const Description& d) { return d.key != "[]" || !d.children.empty(); }

class Page {
 public:
  std::string print(const Description& all) {
    text_ = kHead;
    for (const Description& section : all.children) print(section, section.key, 2, code(section.key));
    return text_;
  }

 private:
  void print(const Description& d, const std::string& path, size_t level, const std::string& title) {
    text_ += fmt::format("\n{} {}\n\n{}\n", std::string(level, '#'), title, d.about);
    std::vector<std::pair<const Description*, std::string>> with_alternatives;
    std::string rows;
    add_rows(d, path, rows, with_alternatives);
    if (!rows.empty()) text_ += "\n| key | value | left out | meaning |\n|---|---|---|---|\n" + rows;
    for (const auto& [one, where] : with_alternatives)
      for (const Description& alternative : one->alternatives) print(alternative, where, level + 1, title_of(alternative, where));
  }

  static std::string title_of(const Description& alternative, const std::string& path) {
    if (alternative.value.empty()) return fmt::format("`{}` with `{}`", path, alternative.key);
    return fmt::format("`{}` with `{}: {}`", path, alternative.key, alternative.value);
  }

  void add_rows(const Description& d, const std::string& path, std::string& rows,
                std::vector<std::pair<const Description*, std::string>>& with_alternatives) {
    if (!d.alternatives.empty()) with_alternatives.emplace_back(&d, path);
    for (const Description& child : d.children) {
      if (!has_row(child)) continue;
      const std::string where = path_of(path, child);
      if (child.key != "[]") rows += fmt::format("| `{}` | {} | {} | {} |\n", where, type_of(child), default_of(child, d), child.about);
      add_rows(child, where, rows, with_alternatives);
    }
  }

  std::string text_;
};

}  // namespace

std::string config_markdown(const Description& all) { return Page().print(all); }

}  // namespace ropewalk
