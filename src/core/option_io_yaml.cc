// The only file that knows yaml-cpp.
#include <yaml-cpp/yaml.h>

#include <set>
#include <string>
#include <vector>

#include "msplora/core/option_io.h"

namespace msplora {
namespace {

// A recipe is a small file; beyond these limits it is an accident or an attack (aliases that multiply).
constexpr int kMaxDepth = 32;
constexpr size_t kMaxNodes = 100000;

class Converter {
 public:
  /// `fixed_place` replaces file and line (overrides).
  Converter(std::string file_name, std::string fixed_place)
      : file_name_(std::move(file_name)), fixed_place_(std::move(fixed_place)) {}

  OptionNode convert(const YAML::Node& yaml, int depth = 0) {
    OptionNode node;
    node.place = place(yaml.Mark());
    if (depth > kMaxDepth || ++nodes_ > kMaxNodes) {
      throw Error(ErrorCode::kConfig, node.place, "values are nested too deep or repeated too often");
    }
    if (yaml.IsScalar()) {
      node.kind = OptionNode::Kind::kScalar;
      node.text = yaml.Scalar();
      node.quoted = yaml.Tag() == "!";
    } else if (yaml.IsSequence()) {
      node.kind = OptionNode::Kind::kList;
      for (const YAML::Node& item : yaml) node.items.push_back(convert(item, depth + 1));
    } else if (yaml.IsMap()) {
      convert_map(yaml, depth, node);
    }
    return node;
  }

  std::string place(const YAML::Mark& mark) const {
    if (!fixed_place_.empty()) return fixed_place_;
    return mark.is_null() ? file_name_ : file_name_ + ":" + std::to_string(mark.line + 1);
  }

 private:
  void convert_map(const YAML::Node& yaml, int depth, OptionNode& node) {
    node.kind = OptionNode::Kind::kMap;
    std::set<std::string> seen;
    for (const auto& entry : yaml) {
      const std::string key_place = place(entry.first.Mark());
      if (!entry.first.IsScalar())
        throw Error(ErrorCode::kConfig, key_place, "expected a key that is a plain word");
      const std::string key = entry.first.Scalar();
      if (!seen.insert(key).second) {
        throw Error(ErrorCode::kConfig, key_place, "the key `" + key + "` is given twice",
                    "remove one of them");
      }
      OptionNode value = convert(entry.second, depth + 1);
      value.place = key_place;  // `key:` alone has no value to stand anywhere
      node.entries.emplace_back(key, std::move(value));
    }
  }

  std::string file_name_;
  std::string fixed_place_;
  size_t nodes_ = 0;
};

}  // namespace

OptionNode parse_option_yaml(const std::string& yaml_text, const std::string& file_name) {
  Converter converter(file_name, "");
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(yaml_text);
    if (documents.size() > 1) {
      throw Error(ErrorCode::kConfig, file_name,
                  "expected one YAML document, found " + std::to_string(documents.size()),
                  "remove the `---` lines");
    }
    OptionNode root;
    root.kind = OptionNode::Kind::kMap;
    root.place = file_name;
    if (documents.empty() || documents.front().IsNull()) return root;
    if (!documents.front().IsMap()) {
      throw Error(ErrorCode::kConfig, file_name, "expected `key: value` lines at the top level");
    }
    return converter.convert(documents.front());
  } catch (const YAML::Exception& error) {
    throw Error(ErrorCode::kConfig, converter.place(error.mark), "not valid YAML: " + error.msg,
                error.mark.is_null() ? "" : "column " + std::to_string(error.mark.column + 1));
  }
}

OptionNode parse_override(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  const std::string path = assignment.substr(0, equals);
  const std::string place = "--set " + path;
  const bool is_broken =
      path.empty() || path.front() == '.' || path.back() == '.' || path.find("..") != std::string::npos;
  if (equals == std::string::npos || is_broken) {
    throw Error(ErrorCode::kUsage, "--set " + assignment, "expected KEY=VALUE", "for example train.lr=3e-4");
  }
  OptionNode node;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(assignment.substr(equals + 1));
    if (!documents.empty()) node = Converter("", place).convert(documents.front());
  } catch (const YAML::Exception& error) {
    throw Error(ErrorCode::kUsage, place, "the value is not valid YAML: " + error.msg, "quote it");
  }
  node.place = place;
  for (size_t end = path.size(); end > 0;) {
    const size_t dot = path.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    OptionNode parent;
    parent.kind = OptionNode::Kind::kMap;
    parent.is_path = true;
    parent.place = place;
    parent.entries.emplace_back(path.substr(begin, end - begin), std::move(node));
    node = std::move(parent);
    end = dot == std::string::npos ? 0 : dot;
  }
  return node;
}

}  // namespace msplora
