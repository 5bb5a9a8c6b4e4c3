#include "checkpoint/container/torch_zip/pickle_machine.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/pickle_builder.h"

namespace waypoint {
namespace {

constexpr int kMinProtocol = 2;
constexpr int kMaxProtocol = 5;
constexpr PickleRef kNoRef = UINT32_MAX;

// Values are pickle's own.
enum class Op : unsigned char {
  kMark = '(',
  kStop = '.',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kEmptyList = ']',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kInst = 'i',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyTuple = ')',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
  kByteArray8 = 0x96,
};

absl::Status PickleError(absl::string_view problem) { return MakeError(ErrorKind::kPickle, problem); }

class Machine {
 public:
  Machine(absl::string_view bytes, const PickleOptions& options, const Limits& limits)
      : bytes_(bytes), options_(options), limits_(limits), builder_(bytes, limits) {}

  absl::StatusOr<PickleTree> Run(absl::string_view what) {
    while (!stopped_) {
      const size_t at = next_;
      builder_.set_at(static_cast<int64_t>(at));
      const absl::Status status = Step();
      if (!status.ok()) {
        return Annotate(
            status,
            absl::StrCat(
                what, ": byte ", at, " of the pickle",
                at < bytes_.size() ? absl::StrFormat(", opcode 0x%02x", static_cast<unsigned char>(bytes_[at])) : ""));
      }
    }
    auto tree = builder_.Finish(stack_[0], static_cast<int64_t>(next_));
    if (!tree.ok()) {
      return Annotate(tree.status(), what);
    }
    return tree;
  }

 private:
  // --- The stream --------------------------------------------------------------------------------------------------

  absl::StatusOr<absl::string_view> Take(uint64_t count) {
    if (count > bytes_.size() - next_) {
      return PickleError(absl::StrCat("wants ", count, " bytes more, the pickle has ", bytes_.size() - next_));
    }
    const absl::string_view taken = bytes_.substr(next_, count);
    next_ += count;
    return taken;
  }

  absl::StatusOr<uint64_t> TakeNumber(int width) {
    WAYPOINT_ASSIGN_OR_RETURN(const absl::string_view digits, Take(width));
    uint64_t value = 0;
    for (int i = width - 1; i >= 0; --i) {
      value = value << 8 | static_cast<unsigned char>(digits[i]);
    }
    return value;
  }

  absl::StatusOr<absl::string_view> TakeCounted(int width) {
    WAYPOINT_ASSIGN_OR_RETURN(const uint64_t count, TakeNumber(width));
    return Take(count);
  }

  absl::StatusOr<absl::string_view> TakeLine() {
    const size_t end = bytes_.find('\n', next_);
    if (end == absl::string_view::npos) {
      return PickleError("a line has no end");
    }
    const absl::string_view line = bytes_.substr(next_, end - next_);
    next_ = end + 1;
    return line;
  }

  // --- The stack ---------------------------------------------------------------------------------------------------

  // Values below the last mark are out of reach.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  absl::Status Push(PickleRef ref) {
    if (static_cast<int64_t>(stack_.size()) >= limits_.pickle_stack) {
      return MakeError(ErrorKind::kLimit, absl::StrCat("stack grows over pickle_stack = ", limits_.pickle_stack));
    }
    stack_.push_back(ref);
    return absl::OkStatus();
  }
  absl::Status Push(const absl::StatusOr<PickleRef>& ref) { return ref.ok() ? Push(*ref) : ref.status(); }

  absl::Status Need(size_t count) const {
    if (stack_.size() - floor() < count) {
      return PickleError(absl::StrCat("takes ", count, " values from a stack of ", stack_.size() - floor()));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<PickleRef> Pop() {
    WAYPOINT_RETURN_IF_ERROR(Need(1));
    const PickleRef ref = stack_.back();
    stack_.pop_back();
    return ref;
  }

  // The values above the last mark, which goes; valid until the next push.
  absl::StatusOr<absl::Span<const PickleRef>> PopMark() {
    if (marks_.empty()) {
      return PickleError("there is no mark on the stack");
    }
    popped_.assign(stack_.begin() + marks_.back(), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return absl::MakeConstSpan(popped_);
  }

  absl::Status PushTuple(size_t count) {
    WAYPOINT_RETURN_IF_ERROR(Need(count));
    popped_.assign(stack_.end() - count, stack_.end());
    stack_.resize(stack_.size() - count);
    return Push(builder_.Tuple(popped_));
  }

  // --- The memo ----------------------------------------------------------------------------------------------------

  absl::Status Put(uint64_t index) {
    WAYPOINT_RETURN_IF_ERROR(Need(1));
    if (index >= static_cast<uint64_t>(limits_.pickle_memo)) {
      return MakeError(ErrorKind::kLimit,
                       absl::StrCat("memo place ", index, " is over pickle_memo = ", limits_.pickle_memo));
    }
    if (index >= memo_.size()) {
      memo_.resize(std::max<size_t>(index + 1, std::min<size_t>(2 * memo_.size(), limits_.pickle_memo)), kNoRef);
    }
    memo_count_ += memo_[index] == kNoRef ? 1 : 0;
    memo_[index] = stack_.back();
    return absl::OkStatus();
  }

  absl::Status Get(uint64_t index) {
    if (index >= memo_.size() || memo_[index] == kNoRef) {
      return PickleError(absl::StrCat("memo has nothing at ", index));
    }
    return Push(memo_[index]);
  }

  // --- The opcodes -------------------------------------------------------------------------------------------------

  absl::Status Step() {
    WAYPOINT_ASSIGN_OR_RETURN(const uint64_t code, TakeNumber(1));
    const Op op = static_cast<Op>(code);
    if (next_ == 1 && op != Op::kProto) {
      return PickleError("a pickle of protocol 2 or later begins with 0x80");
    }
    switch (op) {
      case Op::kProto:
        return Protocol();
      case Op::kFrame: {
        // Only a hint for readers of streams.
        WAYPOINT_ASSIGN_OR_RETURN(const uint64_t count, TakeNumber(8));
        return count > bytes_.size() - next_
                   ? PickleError(absl::StrCat("frame of ", count, " bytes, the pickle has ", bytes_.size() - next_))
                   : absl::OkStatus();
      }
      case Op::kStop:
        return Stop();
      case Op::kMark:
        // A mark is open for each container that is being filled.
        if (static_cast<int64_t>(marks_.size()) >= 2 * limits_.pickle_depth) {
          return MakeError(ErrorKind::kLimit,
                           absl::StrCat("more marks than 2 * pickle_depth = ", 2 * limits_.pickle_depth));
        }
        marks_.push_back(stack_.size());
        return absl::OkStatus();

      case Op::kNone:
        return Push(builder_.none());
      case Op::kNewTrue:
        return Push(builder_.Bool(true));
      case Op::kNewFalse:
        return Push(builder_.Bool(false));
      case Op::kBinInt:
      case Op::kBinInt1:
      case Op::kBinInt2: {
        WAYPOINT_ASSIGN_OR_RETURN(const uint64_t value, TakeNumber(op == Op::kBinInt ? 4 : op == Op::kBinInt2 ? 2 : 1));
        return Push(builder_.Integer(op == Op::kBinInt ? static_cast<int32_t>(value) : static_cast<int64_t>(value)));
      }
      case Op::kLong1:
        return Long();
      case Op::kBinFloat: {
        WAYPOINT_ASSIGN_OR_RETURN(uint64_t bits, TakeNumber(8));
        bits = __builtin_bswap64(bits);  // the one big-endian number of pickle
        double value = 0;
        std::memcpy(&value, &bits, sizeof(value));
        return Push(builder_.Float(value));
      }
      case Op::kShortBinString:
      case Op::kShortBinUnicode:
        return Text(PickleKind::kText, 1);
      case Op::kBinString:
      case Op::kBinUnicode:
        return Text(PickleKind::kText, 4);
      case Op::kBinUnicode8:
        return Text(PickleKind::kText, 8);
      case Op::kShortBinBytes:
        return Text(PickleKind::kBytes, 1);
      case Op::kBinBytes:
        return Text(PickleKind::kBytes, 4);
      case Op::kBinBytes8:
      case Op::kByteArray8:
        return Text(PickleKind::kBytes, 8);

      case Op::kEmptyTuple:
        return PushTuple(0);
      case Op::kTuple1:
        return PushTuple(1);
      case Op::kTuple2:
        return PushTuple(2);
      case Op::kTuple3:
        return PushTuple(3);
      case Op::kTuple: {
        WAYPOINT_ASSIGN_OR_RETURN(const auto items, PopMark());
        return Push(builder_.Tuple(items));
      }
      case Op::kEmptyList:
        return Push(builder_.Container(PickleKind::kList));
      case Op::kEmptySet:
        return Push(builder_.Container(PickleKind::kSet));
      case Op::kEmptyDict:
        return Push(builder_.Container(PickleKind::kDict));
      case Op::kFrozenSet: {
        WAYPOINT_ASSIGN_OR_RETURN(const auto items, PopMark());
        WAYPOINT_ASSIGN_OR_RETURN(const PickleRef set, builder_.Container(PickleKind::kSet));
        WAYPOINT_RETURN_IF_ERROR(builder_.Append(PickleKind::kSet, set, items));
        return Push(set);
      }
      case Op::kAppend: {
        WAYPOINT_RETURN_IF_ERROR(Need(2));
        const PickleRef item = stack_.back();
        stack_.pop_back();
        return builder_.Append(PickleKind::kList, stack_.back(), {item});
      }
      case Op::kAppends:
      case Op::kAddItems: {
        WAYPOINT_ASSIGN_OR_RETURN(const auto items, PopMark());
        WAYPOINT_RETURN_IF_ERROR(Need(1));
        return builder_.Append(op == Op::kAppends ? PickleKind::kList : PickleKind::kSet, stack_.back(), items);
      }
      case Op::kSetItem: {
        WAYPOINT_RETURN_IF_ERROR(Need(3));
        const PickleRef item[2] = {stack_[stack_.size() - 2], stack_.back()};
        stack_.resize(stack_.size() - 2);
        return builder_.SetItems(stack_.back(), item);
      }
      case Op::kSetItems: {
        WAYPOINT_ASSIGN_OR_RETURN(const auto items, PopMark());
        WAYPOINT_RETURN_IF_ERROR(Need(1));
        return builder_.SetItems(stack_.back(), items);
      }

      case Op::kBinPut:
      case Op::kLongBinPut: {
        WAYPOINT_ASSIGN_OR_RETURN(const uint64_t index, TakeNumber(op == Op::kBinPut ? 1 : 4));
        return Put(index);
      }
      case Op::kMemoize:
        return Put(memo_count_);
      case Op::kBinGet:
      case Op::kLongBinGet: {
        WAYPOINT_ASSIGN_OR_RETURN(const uint64_t index, TakeNumber(op == Op::kBinGet ? 1 : 4));
        return Get(index);
      }

      case Op::kGlobal:
      case Op::kInst: {
        WAYPOINT_ASSIGN_OR_RETURN(const absl::string_view module, TakeLine());
        WAYPOINT_ASSIGN_OR_RETURN(const absl::string_view name, TakeLine());
        WAYPOINT_ASSIGN_OR_RETURN(const PickleRef global, builder_.Global(module, name));
        return op == Op::kGlobal ? Push(global) : PickleError("makes an object of a class");
      }
      case Op::kStackGlobal: {
        WAYPOINT_RETURN_IF_ERROR(Need(2));
        const PickleRef name = stack_.back();
        const PickleRef module = stack_[stack_.size() - 2];
        stack_.resize(stack_.size() - 2);
        return Push(builder_.Global(module, name));
      }
      case Op::kReduce: {
        WAYPOINT_RETURN_IF_ERROR(Need(2));
        const PickleRef args = stack_.back();
        const PickleRef callee = stack_[stack_.size() - 2];
        stack_.resize(stack_.size() - 2);
        return Push(builder_.Call(callee, args));
      }
      case Op::kBuild: {
        WAYPOINT_RETURN_IF_ERROR(Need(2));
        const PickleRef state = stack_.back();
        stack_.pop_back();
        return builder_.Build(stack_.back(), state);
      }
      case Op::kBinPersId: {
        WAYPOINT_ASSIGN_OR_RETURN(const PickleRef id, Pop());
        return Push(builder_.PersistentId(id, options_.legacy_ids));
      }
      case Op::kNewObj:
        WAYPOINT_RETURN_IF_ERROR(Need(2));
        return PickleError("makes an object of a class");
    }
    return PickleError("is none that a weights file needs");
  }

  absl::Status Protocol() {
    WAYPOINT_ASSIGN_OR_RETURN(const uint64_t protocol, TakeNumber(1));
    if (next_ != 2) {
      return PickleError("names the protocol in the middle of the pickle");
    }
    if (protocol < kMinProtocol || protocol > kMaxProtocol) {
      return PickleError(
          absl::StrCat("protocol ", protocol, " is not read, only ", kMinProtocol, " to ", kMaxProtocol));
    }
    return absl::OkStatus();
  }

  absl::Status Stop() {
    if (!marks_.empty() || stack_.size() != 1) {
      return PickleError(absl::StrCat("leaves ", stack_.size(), " values and ", marks_.size(),
                                      " marks on the stack, must leave one value"));
    }
    if (!options_.allow_rest && next_ != bytes_.size()) {
      return PickleError(absl::StrCat("ends the pickle, ", bytes_.size() - next_, " bytes follow"));
    }
    stopped_ = true;
    return absl::OkStatus();
  }

  absl::Status Text(PickleKind kind, int width) {
    WAYPOINT_ASSIGN_OR_RETURN(const absl::string_view text, TakeCounted(width));
    return Push(builder_.Text(kind, text));
  }

  absl::Status Long() {
    WAYPOINT_ASSIGN_OR_RETURN(const absl::string_view digits, TakeCounted(1));
    if (digits.size() > sizeof(int64_t)) {
      return Push(builder_.Text(PickleKind::kBigInteger, digits));
    }
    uint64_t value = !digits.empty() && (digits.back() & 0x80) != 0 ? UINT64_MAX : 0;
    for (size_t i = digits.size(); i-- > 0;) {
      value = value << 8 | static_cast<unsigned char>(digits[i]);
    }
    return Push(builder_.Integer(static_cast<int64_t>(value)));
  }

  const absl::string_view bytes_;
  const PickleOptions& options_;
  const Limits& limits_;
  PickleBuilder builder_;
  size_t next_ = 0;
  bool stopped_ = false;
  std::vector<PickleRef> stack_;
  std::vector<size_t> marks_;
  std::vector<PickleRef> popped_;
  std::vector<PickleRef> memo_;
  uint64_t memo_count_ = 0;
};

}  // namespace

absl::StatusOr<PickleTree> RunPickle(absl::string_view bytes, absl::string_view what, const PickleOptions& options,
                                     const Limits& limits) {
  return Machine(bytes, options, limits).Run(what);
}

}  // namespace waypoint
