#pragma once
// The subset of Python's pickle protocol 2 that torch.save writes for state dicts. Reading it executes nothing: the
// only callables are the ones that build an OrderedDict or a tensor, and those become plain values here.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace omni {

// One value. Containers refer to their items by index, so that shared and even cyclic values are harmless.
struct PickleValue {
  enum class Kind : std::uint8_t {
    none,
    boolean,     // integer
    integer,     // integer
    real,        // real
    text,        // text, UTF-8 not verified
    global,      // text: "module name", one of the allowed
    tuple,       // items
    list,        // items
    dictionary,  // items: key, value, key, value ...; later entries replace earlier ones
    storage,     // items: the persistent id's tuple ("storage", class, member, device, element count)
    tensor,      // items: arguments of torch._utils._rebuild_tensor_v2
  };
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<std::uint32_t> items;
};

const char* name_of(PickleValue::Kind kind);

struct Pickle {
  std::vector<PickleValue> values;
  std::uint32_t root = 0;
};

// Throws std::runtime_error naming `name`, the byte, and the opcode or global that is not allowed. Memory is bounded:
// at most 2^20 values, and everything else is linear in the number of bytes.
Pickle parse_pickle(std::span<const std::byte> bytes, const std::string& name);

}  // namespace omni
