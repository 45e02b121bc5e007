#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "engine/mapped_file.h"
#include "engine/memory.h"
#include "engine/pickle.h"
#include "engine/pth.h"
#include "engine/zip_reader.h"

namespace omni {
namespace {

using Kind = PickleValue::Kind;

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxRank = 64, kMaxValues = std::size_t{1} << 20, kMaxText = std::size_t{64} << 20;
constexpr std::size_t kMaxPickle = std::size_t{16} << 20;

std::optional<DType> storage_dtype(std::string_view storage_class) {
  constexpr std::pair<std::string_view, DType> kClasses[] = {
      {"torch HalfStorage", DType::f16},   {"torch BFloat16Storage", DType::bf16}, {"torch FloatStorage", DType::f32},
      {"torch DoubleStorage", DType::f64}, {"torch LongStorage", DType::i64},      {"torch IntStorage", DType::i32},
      {"torch ByteStorage", DType::u8},    {"torch BoolStorage", DType::u8}};
  for (const auto& [name, dtype] : kClasses)
    if (name == storage_class) return dtype;
  return std::nullopt;
}

// Turns the pickle's graph into a tree, with tensors in place of the calls that build them. Depth, number of values and
// amount of text are limited, so sharing and cycles in the graph cannot blow up the tree.
class PthBuilder {
 public:
  PthBuilder(const Pickle& pickle, StoredZip& archive, std::size_t file_bytes, const std::string& name)
      : pickle_(pickle), archive_(archive), name_(name), copy_budget_(16 * std::uint64_t{file_bytes} + (1 << 20)) {}

  PthValue build(std::uint32_t index, int depth) {
    if (depth > kMaxDepth) fail("values are nested more than " + std::to_string(kMaxDepth) + " deep");
    if (++values_ > kMaxValues) fail("more than " + std::to_string(kMaxValues) + " values");
    const PickleValue& value = pickle_.values[index];
    switch (value.kind) {
      case Kind::none:
        return PthValue();
      case Kind::boolean:
        return PthValue(value.integer != 0);
      case Kind::integer:
        return PthValue(value.integer);
      case Kind::real:
        return PthValue(value.real);
      case Kind::text:
        if ((text_ += value.text.size()) > kMaxText) fail("more than 64 MiB of text");
        return PthValue(value.text);
      case Kind::tensor:
        return PthValue(tensor(index));
      case Kind::list:
        return PthValue(list(value, depth));
      case Kind::tuple:
        return PthValue(PthValue::Tuple{list(value, depth)});
      case Kind::dictionary:
        return PthValue(dictionary(value, depth));
      case Kind::global:
      case Kind::storage:
        break;
    }
    fail(std::string("a ") + name_of(value.kind) + " outside of a tensor");
  }

 private:
  struct Storage {
    std::shared_ptr<const Buffer> bytes;
    DType dtype;
    std::int64_t count;
  };

  PthValue::List list(const PickleValue& value, int depth) {
    PthValue::List items;
    for (const std::uint32_t item : value.items) items.push_back(build(item, depth + 1));
    return items;
  }

  PthValue::Dictionary dictionary(const PickleValue& value, int depth) {
    PthValue::Dictionary items;
    std::unordered_map<std::string, std::size_t> places;
    for (std::size_t i = 0; i < value.items.size(); i += 2) {
      const PickleValue& key = pickle_.values[value.items[i]];
      if (key.kind != Kind::text && key.kind != Kind::integer)
        fail(std::string("a dictionary key must be text or a whole number, found a ") + name_of(key.kind));
      const std::string text = key.kind == Kind::text ? "t" + key.text : "i" + std::to_string(key.integer);
      PthValue::Item item{build(value.items[i], depth + 1), build(value.items[i + 1], depth + 1)};
      const auto [place, is_new] = places.emplace(text, items.size());
      if (is_new)
        items.push_back(std::move(item));
      else
        items[place->second] = std::move(item);
    }
    return items;
  }

  // Arguments of _rebuild_tensor_v2: storage, offset, sizes, strides, requires_grad, hooks; the last two say nothing
  // here.
  const PthTensor& tensor(std::uint32_t index) {
    const auto known = tensors_.find(index);
    if (known != tensors_.end()) return known->second;
    const std::vector<std::uint32_t>& arguments = pickle_.values[index].items;
    const Storage& storage = load_storage(expect(arguments[0], Kind::storage));
    const std::int64_t offset = expect(arguments[1], Kind::integer).integer;
    const std::vector<std::int64_t> sizes = integers(arguments[2]), strides = integers(arguments[3]);
    if (sizes.size() != strides.size() || sizes.size() > kMaxRank)
      fail("a tensor with " + std::to_string(sizes.size()) + " sizes and " + std::to_string(strides.size()) +
           " strides");

    std::int64_t count = 1, last = offset, size = static_cast<std::int64_t>(size_of(storage.dtype));
    bool overflow = offset < 0, contiguous = true, negative = false;
    for (std::size_t i = sizes.size(); i-- > 0;) {
      std::int64_t reach = 0;
      negative = negative || sizes[i] < 0 || strides[i] < 0;
      contiguous = contiguous && (sizes[i] == 1 || strides[i] == count);
      overflow = overflow || __builtin_mul_overflow(count, sizes[i], &count) ||
                 __builtin_mul_overflow(std::max<std::int64_t>(sizes[i] - 1, 0), strides[i], &reach) ||
                 __builtin_add_overflow(last, reach, &last);
    }
    std::int64_t bytes = 0;
    if (negative) fail("a tensor has a negative size or stride");
    if (overflow || __builtin_mul_overflow(count, size, &bytes) || (count > 0 && last >= storage.count))
      fail("a tensor of " + std::to_string(count) + " elements reaches outside of its storage of " +
           std::to_string(storage.count));
    PthTensor result{storage.dtype, sizes, {}};
    if (count == 0)
      result.data = std::shared_ptr<const std::byte>(storage.bytes, storage.bytes->data());
    else if (contiguous)
      result.data = std::shared_ptr<const std::byte>(storage.bytes, storage.bytes->data() + offset * size);
    else
      result.data = gather(storage.bytes->data() + offset * size, sizes, strides, size, bytes);
    return tensors_.emplace(index, std::move(result)).first->second;
  }

  // Copies a strided tensor into contiguous memory.
  std::shared_ptr<const std::byte> gather(const std::byte* from, const std::vector<std::int64_t>& sizes,
                                          const std::vector<std::int64_t>& strides, std::int64_t size,
                                          std::int64_t bytes) {
    if (static_cast<std::uint64_t>(bytes) > copy_budget_)
      fail("tensors with strides need far more memory than the file");
    copy_budget_ -= static_cast<std::uint64_t>(bytes);
    auto memory = std::make_shared<Buffer>(static_cast<std::size_t>(bytes));
    std::byte* to = memory->data();
    std::byte* const end = to + bytes;
    std::vector<std::int64_t> at(sizes.size(), 0);
    const std::size_t inner = sizes.size() - 1;
    for (std::int64_t offset = 0; to < end;) {
      if (strides[inner] == 1) {
        std::memcpy(to, from + offset * size, static_cast<std::size_t>(sizes[inner] * size));
      } else {
        for (std::int64_t i = 0; i < sizes[inner]; ++i)
          std::memcpy(to + i * size, from + (offset + i * strides[inner]) * size, static_cast<std::size_t>(size));
      }
      to += sizes[inner] * size;
      for (std::size_t dim = inner; dim-- > 0;) {
        offset += strides[dim];
        if (++at[dim] < sizes[dim]) break;
        offset -= at[dim] * strides[dim];
        at[dim] = 0;
      }
    }
    return {memory, memory->data()};
  }

  // The persistent id's tuple: "storage", its class, the member's name, device, number of elements.
  const Storage& load_storage(const PickleValue& id) {
    if (id.items.size() != 5 || expect(id.items[0], Kind::text).text != "storage") fail("an unknown persistent id");
    const std::string& storage_class = expect(id.items[1], Kind::global).text;
    const std::string& member = expect(id.items[2], Kind::text).text;
    const std::int64_t count = expect(id.items[4], Kind::integer).integer;
    const std::optional<DType> dtype = storage_dtype(storage_class);
    if (!dtype) fail("'" + storage_class + "' is no storage class");
    if (member.empty() || member.find_first_not_of("0123456789") != member.npos)
      fail("'" + member.substr(0, 100) + "' is no storage number");

    const auto known = storages_.find(member);
    const Storage& storage =
        known != storages_.end()
            ? known->second
            : storages_
                  .emplace(member, Storage{std::make_shared<Buffer>(archive_.read("data/" + member)), *dtype, count})
                  .first->second;
    const std::size_t bytes = storage.bytes->bytes(), size = size_of(*dtype);
    if (storage.dtype != *dtype || count < 0 || bytes % size != 0 || bytes / size != static_cast<std::uint64_t>(count))
      fail("storage " + member + " should be " + std::to_string(count) + " elements of " + name_of(*dtype) +
           ", found " + std::to_string(bytes) + " bytes of " + name_of(storage.dtype));
    return storage;
  }

  const PickleValue& expect(std::uint32_t index, Kind kind) const {
    const PickleValue& value = pickle_.values[index];
    if (value.kind != kind)
      fail(std::string("a tensor's description has a ") + name_of(value.kind) + " in place of a " + name_of(kind));
    return value;
  }
  std::vector<std::int64_t> integers(std::uint32_t index) const {
    std::vector<std::int64_t> numbers;
    for (const std::uint32_t item : expect(index, Kind::tuple).items)
      numbers.push_back(expect(item, Kind::integer).integer);
    return numbers;
  }
  [[noreturn]] void fail(const std::string& problem) const {
    throw std::runtime_error(name_ + ": data.pkl: " + problem);
  }

  const Pickle& pickle_;
  StoredZip& archive_;
  const std::string& name_;
  std::uint64_t copy_budget_;
  std::size_t values_ = 0, text_ = 0;
  std::unordered_map<std::uint32_t, PthTensor> tensors_;  // by index of the pickle's value
  std::unordered_map<std::string, Storage> storages_;     // by member name
};

std::string_view text_of(const Buffer& buffer) {
  return {reinterpret_cast<const char*>(buffer.data()), buffer.bytes()};
}

}  // namespace

ConstView PthTensor::view() const {
  if (sizes.size() > Shape::kMaxRank)
    throw std::runtime_error("a tensor of " + std::to_string(sizes.size()) + " dimensions, at most " +
                             std::to_string(Shape::kMaxRank) + " are supported");
  return {data.get(), dtype, Shape(sizes)};
}

const PthValue* PthValue::find(std::string_view key) const {
  if (const Dictionary* items = get<Dictionary>())
    for (const Item& item : *items)
      if (const std::string* text = item.key.get<std::string>(); text != nullptr && *text == key) return &item.value;
  return nullptr;
}

const char* PthValue::kind() const {
  constexpr const char* kNames[] = {"none",   "boolean", "whole number", "number",    "text",
                                    "tensor", "list",    "tuple",        "dictionary"};
  return kNames[content_.index()];
}

PthValue parse_pth(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() >= 2 && bytes[0] == std::byte{0x80} && bytes[1] == std::byte{2})
    throw std::runtime_error(name +
                             ": written by PyTorch before version 1.6; load it and save it again with a newer one");
  StoredZip archive(bytes, name);
  if (archive.contains("byteorder"))
    if (const Buffer order = archive.read("byteorder"); text_of(order) != "little")
      throw std::runtime_error(name + ": byte order must be 'little', found '" + std::string(text_of(order)) + "'");
  const Buffer text = archive.read("data.pkl");
  if (text.bytes() > kMaxPickle)
    throw std::runtime_error(name + ": data.pkl has " + std::to_string(text.bytes()) + " bytes, more than " +
                             std::to_string(kMaxPickle));
  const Pickle pickle = parse_pickle({text.data(), text.bytes()}, name);
  return PthBuilder(pickle, archive, bytes.size(), name).build(pickle.root, 0);
}

PthValue read_pth(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_pth(file.bytes(), path.string());
}

}  // namespace omni
