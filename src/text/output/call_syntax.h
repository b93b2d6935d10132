// What formats of calls consist of: how calls are read, and how a model writes them.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/output/json_calls.h"
#include "text/output/named_calls.h"
#include "text/output/nested_calls.h"
#include "text/output/python_calls.h"
#include "text/output/recipient_calls.h"
#include "text/output/xml_calls.h"

namespace shoal {

using OneCallsSyntax = std::variant<JsonCallsSyntax, NamedCallsSyntax, XmlCallsSyntax, PythonCallsSyntax,
                                    NestedCallsSyntax, RecipientCallsSyntax>;

/// How calls are read behind an opening marker.
struct CallsSyntax {
  OneCallsSyntax main;
  /// Reads what does not begin with "{", where `main` is of JSON and the format knows both.
  std::vector<OneCallsSyntax> others = {};
};

/// A piece of notation between the markers.
struct NotationPiece {
  enum class Kind {
    kText,   ///< It stands there.
    kMaybe,  ///< It may be missing: models of one format differ in their spaces.
    kRegex,  ///< Any text of a regular expression.
  };
  std::string text;
  Kind kind = Kind::kText;

  NotationPiece(const char* plain) : text(plain) {}             // NOLINT(google-explicit-constructor)
  NotationPiece(std::string plain) : text(std::move(plain)) {}  // NOLINT(google-explicit-constructor)
  NotationPiece(std::string piece, Kind of) : text(std::move(piece)), kind(of) {}
};
using Notation = std::vector<NotationPiece>;

inline NotationPiece Maybe(std::string text) { return {std::move(text), NotationPiece::Kind::kMaybe}; }
inline NotationPiece OfRegex(std::string regex) { return {std::move(regex), NotationPiece::Kind::kRegex}; }

/// How the arguments of a call are written.
enum class ArgumentStyle {
  kJson,      ///< A JSON object.
  kElements,  ///< Elements of text, with the marks of an XmlCallsSyntax.
  kPython,    ///< key=value, key=value
  kMarked,    ///< {key:value,key:value}, with strings between the marks of a LiteralSyntax.
  kNested,    ///< Elements within elements, with the mark of a NestedCallsSyntax.
};

/// How a model writes calls: one of the ways that the format's parser reads. A grammar of calls is made of it.
struct CallWriting {
  /// It is this model's if its chat template has all these texts; none: of any model.
  std::vector<std::string_view> for_templates = {};
  Notation preface = {};  ///< Between the model's reasoning and the opening marker.
  std::string opener;     ///< "": the answer begins with the call.
  Notation begin = {};    ///< Behind the opening marker.
  Notation before_name;   ///< Between the tool's name and what is in front of it.
  Notation after_name;    ///< Up to the arguments.
  Notation after_arguments = {};
  Notation separator = {};  ///< Between two calls.
  Notation end = {};        ///< Before the closing marker.
  std::string closer = "";
  bool around_each = false;  ///< The markers stand around each call, not around all of them.
  bool single = false;       ///< The model's templates take one call in an answer.
  ArgumentStyle style = ArgumentStyle::kJson;
  bool python_words = false;  ///< Of kElements: "True" may stand for true.
  std::string frame = "";     ///< Of kElements: around each value. Spaces that the parser takes for a frame.
  // Of kElements, beside the marks: between a key and its value, and behind a value.
  Notation text_attribute = {}, json_attribute = {};
  Notation before_value = {}, after_value = {};
};

/// The members of a call's JSON object up to its arguments.
inline Notation NameMember(std::string_view key) { return {"{\"" + std::string(key) + "\": \""}; }
inline Notation ArgumentsMember(std::string_view key) { return {"\", \"" + std::string(key) + "\": "}; }

}  // namespace shoal
