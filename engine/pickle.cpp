#include "engine/pickle.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace omni {
namespace {

using Kind = PickleValue::Kind;

constexpr std::size_t kMaxPickleValues = std::size_t{1} << 20;
constexpr std::string_view kOrderedDict = "collections OrderedDict", kTensor = "torch._utils _rebuild_tensor_v2";
constexpr std::string_view kAllowed[] = {
    kOrderedDict,         kTensor,
    "torch HalfStorage",  "torch BFloat16Storage",
    "torch FloatStorage", "torch DoubleStorage",
    "torch LongStorage",  "torch IntStorage",
    "torch ByteStorage",  "torch BoolStorage",
};

// The pickle machine: a stack of values with marks, and a memo. Values are created once and referred to by index.
class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  Pickle run() {
    if (bytes_.size() < 2 || byte_at(0) != 0x80 || byte_at(1) != 2) fail("expected a pickle of protocol 2");
    next_ = 2;
    for (;;) {
      opcode_at_ = next_;
      const std::uint8_t opcode = static_cast<std::uint8_t>(number(1));
      if (opcode == '.') break;
      if (!push_constant(opcode) && !build(opcode) && !use_memo(opcode)) refuse(opcode);
    }
    pickle_.root = pop();
    return std::move(pickle_);
  }

 private:
  // Opcodes that push a value that stands in the stream.
  bool push_constant(std::uint8_t opcode) {
    switch (opcode) {
      case 'N':
        return push({.kind = Kind::none, .text = {}, .items = {}});
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        return push_integer(opcode == 0x88, Kind::boolean);
      case 'K':  // BININT1
        return push_integer(static_cast<std::int64_t>(number(1)));
      case 'M':  // BININT2
        return push_integer(static_cast<std::int64_t>(number(2)));
      case 'J':  // BININT
        return push_integer(static_cast<std::int32_t>(number(4)));
      case 0x8a:  // LONG1
        return push_integer(long_integer());
      case 'G':  // BINFLOAT, big-endian
        return push(
            {.kind = Kind::real, .real = std::bit_cast<double>(__builtin_bswap64(number(8))), .text = {}, .items = {}});
      case 'X':  // BINUNICODE
        return push({.kind = Kind::text, .text = std::string(take(number(4))), .items = {}});
      case 'c':  // GLOBAL
        return push({.kind = Kind::global, .text = global(), .items = {}});
      default:
        return false;
    }
  }

  // Opcodes that combine values on the stack.
  bool build(std::uint8_t opcode) {
    switch (opcode) {
      case '(':  // MARK
        marks_.push_back(stack_.size());
        return true;
      case ')':  // EMPTY_TUPLE
        return push({.kind = Kind::tuple, .text = {}, .items = {}});
      case ']':  // EMPTY_LIST
        return push({.kind = Kind::list, .text = {}, .items = {}});
      case '}':  // EMPTY_DICT
        return push({.kind = Kind::dictionary, .text = {}, .items = {}});
      case 0x85:  // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87:
        return push({.kind = Kind::tuple, .text = {}, .items = pop_many(opcode - std::size_t{0x84})});
      case 't':  // TUPLE
        return push({.kind = Kind::tuple, .text = {}, .items = pop_to_mark()});
      case 'a':  // APPEND
        return extend(Kind::list, pop_many(1));
      case 'e':  // APPENDS
        return extend(Kind::list, pop_to_mark());
      case 's':  // SETITEM
        return extend(Kind::dictionary, pop_many(2));
      case 'u':  // SETITEMS
        return extend(Kind::dictionary, pop_to_mark());
      case 'Q':  // BINPERSID
        return push({.kind = Kind::storage, .text = {}, .items = value(pop(), Kind::tuple).items});
      case 'R':  // REDUCE
        return reduce();
      case 'b':  // BUILD: attributes of an OrderedDict, such as a state dict's version numbers; of no use here
        value(pop(), Kind::dictionary);
        value(top(), Kind::dictionary);
        return true;
      default:
        return false;
    }
  }

  bool use_memo(std::uint8_t opcode) {
    switch (opcode) {
      case 'q':  // BINPUT
      case 'r':  // LONG_BINPUT
        memo_[number(opcode == 'q' ? 1 : 4)] = top();
        return true;
      case 'h':    // BINGET
      case 'j': {  // LONG_BINGET
        const auto found = memo_.find(number(opcode == 'h' ? 1 : 4));
        if (found == memo_.end()) fail("reads a memo entry that was never written");
        stack_.push_back(found->second);
        return true;
      }
      default:
        return false;
    }
  }

  bool reduce() {
    std::vector<std::uint32_t> arguments = value(pop(), Kind::tuple).items;
    const std::string& callable = value(pop(), Kind::global).text;
    if (callable == kTensor && arguments.size() == 6)
      return push({.kind = Kind::tensor, .text = {}, .items = std::move(arguments)});
    if (callable == kOrderedDict && arguments.empty()) return push({.kind = Kind::dictionary, .text = {}, .items = {}});
    fail("a call of " + callable + " with " + std::to_string(arguments.size()) + " arguments is not allowed");
  }

  std::string global() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + next_, bytes_.size() - next_);
    const std::size_t module_end = rest.find('\n');
    const std::size_t end = module_end == rest.npos ? rest.npos : rest.find('\n', module_end + 1);
    if (end == rest.npos) fail("cut off in a GLOBAL");
    next_ += end + 1;
    const std::string text =
        std::string(rest.substr(0, module_end)) + " " + std::string(rest.substr(module_end + 1, end - module_end - 1));
    if (std::find(std::begin(kAllowed), std::end(kAllowed), text) == std::end(kAllowed))
      fail("GLOBAL '" + text.substr(0, 100) + "' is not allowed");
    return text;
  }

  std::int64_t long_integer() {  // two's complement, as many bytes as the first byte says
    const std::size_t size = number(1);
    if (size > 8) fail("a whole number of " + std::to_string(size) + " bytes is too large");
    if (size == 0) return 0;
    const unsigned unused = static_cast<unsigned>(64 - 8 * size);
    return static_cast<std::int64_t>(number(size) << unused) >> unused;
  }

  std::string_view take(std::size_t count) {
    if (count > bytes_.size() - next_) fail("cut off");
    next_ += count;
    return {reinterpret_cast<const char*>(bytes_.data()) + next_ - count, count};
  }
  std::uint8_t byte_at(std::size_t position) const { return std::to_integer<std::uint8_t>(bytes_[position]); }
  std::uint64_t number(std::size_t size) {  // little-endian
    const std::string_view text = take(size);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i)
      value |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(text[i])) << 8 * i;
    return value;
  }

  bool push(PickleValue value) {
    if (pickle_.values.size() == kMaxPickleValues) fail("more than " + std::to_string(kMaxPickleValues) + " values");
    stack_.push_back(static_cast<std::uint32_t>(pickle_.values.size()));
    pickle_.values.push_back(std::move(value));
    return true;
  }
  bool push_integer(std::int64_t integer, Kind kind = Kind::integer) {
    return push({.kind = kind, .integer = integer, .text = {}, .items = {}});
  }
  std::uint32_t top() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("takes a value from an empty stack");
    return stack_.back();
  }
  std::uint32_t pop() {
    const std::uint32_t index = top();
    stack_.pop_back();
    return index;
  }
  std::vector<std::uint32_t> pop_many(std::size_t count) {
    std::vector<std::uint32_t> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }
  std::vector<std::uint32_t> pop_to_mark() {
    if (marks_.empty()) fail("has no mark on the stack");
    const auto mark = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<std::uint32_t> items(mark, stack_.end());
    stack_.erase(mark, stack_.end());
    marks_.pop_back();
    return items;
  }
  PickleValue& value(std::uint32_t index, Kind kind) {
    PickleValue& found = pickle_.values[index];
    if (found.kind != kind) fail(std::string("expected a ") + name_of(kind) + ", found a " + name_of(found.kind));
    return found;
  }
  bool extend(Kind kind, const std::vector<std::uint32_t>& items) {
    if (kind == Kind::dictionary && items.size() % 2 != 0) fail("a key without a value");
    std::vector<std::uint32_t>& all = value(top(), kind).items;
    all.insert(all.end(), items.begin(), items.end());
    return true;
  }

  [[noreturn]] void refuse(std::uint8_t opcode) const {
    char text[32];
    std::snprintf(text, sizeof text, "opcode 0x%02x is not allowed", opcode);
    fail(text);
  }
  [[noreturn]] void fail(const std::string& problem) const {
    throw std::runtime_error(name_ + ": pickle byte " + std::to_string(opcode_at_) + ": " + problem);
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  std::size_t next_ = 0, opcode_at_ = 0;
  Pickle pickle_;
  std::vector<std::uint32_t> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, std::uint32_t> memo_;
};

}  // namespace

const char* name_of(Kind kind) {
  constexpr const char* kNames[] = {"none",  "boolean", "whole number", "number",  "text",  "global",
                                    "tuple", "list",    "dictionary",   "storage", "tensor"};
  return kNames[static_cast<std::size_t>(kind)];
}

Pickle parse_pickle(std::span<const std::byte> bytes, const std::string& name) {
  return PickleMachine(bytes, name).run();
}

}  // namespace omni
