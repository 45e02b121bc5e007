#pragma once
// PyTorch's file format (torch.save, since version 1.6): a zip archive of stored members, data.pkl with the values and
// data/<key> with the tensors' bytes. Read and written without PyTorch.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/named_view.h"

namespace omni {

// A tensor of a file, contiguous, with shared ownership of its memory. Bool storages become u8.
struct PthTensor {
  DType dtype = DType::f32;
  std::vector<std::int64_t> sizes;
  std::shared_ptr<const std::byte> data;

  ConstView view() const;  // throws std::runtime_error for more than 4 dimensions
};

// A value of a file: nothing, truth value, number, text, tensor, or a list, tuple or dictionary of values.
class PthValue {
 public:
  struct Item;
  using List = std::vector<PthValue>;
  struct Tuple {
    List items;
  };
  using Dictionary = std::vector<Item>;  // in the file's order; keys are unique texts or whole numbers
  using Content =
      std::variant<std::monostate, bool, std::int64_t, double, std::string, PthTensor, List, Tuple, Dictionary>;

  PthValue() = default;
  explicit PthValue(Content content);

  const Content& content() const { return content_; }
  template <class T>
  const T* get() const {  // null if the value is of another type
    return std::get_if<T>(&content_);
  }
  // The value under a text key; null if this is no dictionary or has no such key.
  const PthValue* find(std::string_view key) const;
  const char* kind() const;  // "dictionary", "tensor" ..., for messages

 private:
  Content content_;
};

struct PthValue::Item {
  PthValue key, value;
};

inline PthValue::PthValue(Content content) : content_(std::move(content)) {}

// Reads a file that torch.save wrote. Only what state dicts are made of is accepted, nothing is executed
// (engine/pickle.h), member checksums are verified, and memory stays within a small multiple of the file's size: a
// tensor view is copied out of its storage by offset and strides if it is not contiguous there, and shares it
// otherwise. Throws std::runtime_error naming the file and the place.
PthValue read_pth(const std::filesystem::path& path);
// The same for bytes in memory, needed only during the call; `name` stands for the path in errors.
PthValue parse_pth(std::span<const std::byte> bytes, const std::string& name);

// Writes a state dict atomically, as torch.save lays it out (every tensor with a storage of its own, at multiples of 64
// bytes), so that torch.load(weights_only=True) reads it. Tied tensors are written once under each name.
void write_pth(const std::filesystem::path& path, std::span<const NamedView> tensors);

}  // namespace omni
