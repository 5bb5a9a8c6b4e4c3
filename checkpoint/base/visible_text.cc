#include "checkpoint/base/visible_text.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace waypoint {
namespace {

struct Character {
  uint32_t code = 0;
  size_t bytes = 0;  // 0: the text does not begin with UTF-8
};

// Unicode 15, table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF.
Character FirstCharacter(absl::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) {
    return {first, 1};
  }
  const size_t bytes = first < 0xC2 || first > 0xF4 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (bytes == 0 || bytes > text.size()) {
    return {};
  }
  uint32_t code = first & (0xFF >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xC0) != 0x80) {
      return {};
    }
    code = code << 6 | (next & 0x3F);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool valid = code >= kSmallest[bytes] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
  return valid ? Character{code, bytes} : Character{};
}

struct Range {
  uint32_t first;
  uint32_t last;
};

// What is obeyed or not seen: category Cc, the marks of direction of UAX #9, the separators of lines, and characters
// without width that hide in a name.
constexpr Range kHidden[] = {
    {0x00, 0x1F},     {0x7F, 0x9F},     {0xAD, 0xAD},     {0x61C, 0x61C},   {0x180E, 0x180E},   {0x200B, 0x200F},
    {0x2028, 0x202E}, {0x2060, 0x206F}, {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE007F},
};

bool IsHidden(uint32_t code) {
  return std::any_of(std::begin(kHidden), std::end(kHidden),
                     [code](const Range& range) { return code >= range.first && code <= range.last; });
}

void AppendEscaped(uint32_t code, std::string* out) {
  switch (code) {
    case '\b':
      out->append("\\b");
      return;
    case '\f':
      out->append("\\f");
      return;
    case '\n':
      out->append("\\n");
      return;
    case '\r':
      out->append("\\r");
      return;
    case '\t':
      out->append("\\t");
      return;
    default:
      break;
  }
  if (code >= 0x10000) {
    // JSON has four digits only.
    AppendEscaped(0xD800 + ((code - 0x10000) >> 10), out);
    code = 0xDC00 + ((code - 0x10000) & 0x3FF);
  }
  absl::StrAppend(out, "\\u", absl::Hex(code, absl::kZeroPad4));
}

bool IsPlain(char c) { return c >= 0x20 && c < 0x7F; }

}  // namespace

std::string VisibleText(absl::string_view text, NewLines new_lines) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t plain = std::find_if_not(text.begin(), text.end(), IsPlain) - text.begin();
    out.append(text.data(), plain);
    text.remove_prefix(plain);
    if (text.empty()) {
      break;
    }
    const Character character = FirstCharacter(text);
    if (character.bytes == 0) {
      absl::StrAppend(&out, "\\x", absl::Hex(static_cast<unsigned char>(text[0]), absl::kZeroPad2));
      text.remove_prefix(1);
      continue;
    }
    const bool kept = text[0] == '\n' && (new_lines == NewLines::kKept ||
                                          (new_lines == NewLines::kIndented && absl::StartsWith(text, "\n  ")));
    if (kept || !IsHidden(character.code)) {
      out.append(text.data(), character.bytes);
    } else {
      AppendEscaped(character.code, &out);
    }
    text.remove_prefix(character.bytes);
  }
  return out;
}

}  // namespace waypoint
