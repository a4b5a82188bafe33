#include "trainer/config/description.h"

#include <algorithm>

namespace ropewalk {

const Description* Description::find(const std::string& child_key) const {
  const auto found = std::find_if(children.begin(), children.end(), [&](const Description& d) { return d.key == child_key; });
  return found == children.end() ? nullptr : &*found;
}

Description& Description::child(const std::string& child_key) {
  for (Description& known : children)
    if (known.key == child_key) return known;
  Description& added = children.emplace_back();
  added.key = child_key;
  return added;
}

Description& Description::alternative(const std::string& alternative_key, const std::string& alternative_value) {
  for (Description& known : alternatives)
    if (known.key == alternative_key && known.value == alternative_value) return known;
  Description& added = alternatives.emplace_back();
  added.key = alternative_key;
  added.value = alternative_value;
  return added;
}

void Description::may_be(const ValueForm& form) {
  if (std::find(forms.begin(), forms.end(), form) == forms.end()) forms.push_back(form);
}

}  // namespace ropewalk
