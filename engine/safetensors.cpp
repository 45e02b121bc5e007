#include "engine/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "engine/files.h"
#include "engine/memory.h"
#include "engine/safetensors_header.h"
#include "engine/suggest.h"
#include "engine/weights.h"

namespace omni {

// A dtype of the format: its size, and ours where kernels can use it.
struct FileDType {
  const char* name;
  unsigned bits;
  std::optional<DType> ours;
};

namespace {

static_assert(std::endian::native == std::endian::little, "weight files are little-endian and are used in place");

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the limit of the format's reference implementation

constexpr FileDType kDTypes[] = {
    {"F64", 64, DType::f64},      {"F32", 32, DType::f32},      {"F16", 16, DType::f16},
    {"BF16", 16, DType::bf16},    {"I64", 64, DType::i64},      {"I32", 32, DType::i32},
    {"U8", 8, DType::u8},         {"BOOL", 8, DType::u8},       {"I16", 16, std::nullopt},
    {"I8", 8, std::nullopt},      {"U16", 16, std::nullopt},    {"U32", 32, std::nullopt},
    {"U64", 64, std::nullopt},    {"F8_E4M3", 8, std::nullopt}, {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt}, {"F6_E2M3", 6, std::nullopt}, {"F6_E3M2", 6, std::nullopt},
    {"F4", 4, std::nullopt},      {"C64", 64, std::nullopt},
};

const char* file_name_of(DType dtype) {
  for (const FileDType& known : kDTypes)
    if (known.ours == dtype) return known.name;
  throw std::logic_error(std::string("safetensors has no name for ") + name_of(dtype));
}

std::string text_of(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Number of bytes of a tensor; nothing if the product does not fit or ends inside a byte.
std::optional<std::uint64_t> bytes_of(std::span<const std::int64_t> shape, unsigned bits) {
  std::uint64_t product = bits;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  for (const std::int64_t size : shape)
    if (__builtin_mul_overflow(product, static_cast<std::uint64_t>(size), &product)) return std::nullopt;
  return product % 8 == 0 ? std::optional(product / 8) : std::nullopt;
}

// The ranges of the tensors, sorted, must follow each other from the first to the last byte of the data.
void check_layout(const SafetensorsHeader& header, std::uint64_t data_bytes, const std::string& file) {
  std::vector<const SafetensorsHeader::Tensor*> sorted;
  for (const SafetensorsHeader::Tensor& tensor : header.tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(),
            [](const auto* a, const auto* b) { return std::pair(a->begin, a->end) < std::pair(b->begin, b->end); });
  std::uint64_t end = 0;
  for (const SafetensorsHeader::Tensor* tensor : sorted) {
    if (tensor->begin != end)
      throw std::runtime_error(file + ": tensor '" + tensor->name + "' begins at data byte " +
                               std::to_string(tensor->begin) + ", expected " + std::to_string(end) +
                               (tensor->begin < end ? " (overlap)" : " (hole)"));
    end = tensor->end;
  }
  if (end != data_bytes)
    throw std::runtime_error(file + ": the header describes " + std::to_string(end) + " bytes of data, the file has " +
                             std::to_string(data_bytes));
}

}  // namespace

struct SafetensorsFile::Tensor {
  const std::byte* data;
  std::uint64_t bytes;
  const FileDType* dtype;
  std::vector<std::int64_t> shape;
};

struct SafetensorsFile::Copies {
  std::mutex mutex;
  std::unordered_map<std::size_t, Buffer> buffers;  // by place in names_
};

SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) {
  auto file = std::make_unique<MappedFile>(path);
  *this = SafetensorsFile(file->bytes(), path.string());
  file_ = std::move(file);
}

SafetensorsFile::SafetensorsFile(std::span<const std::byte> bytes, std::string name)
    : name_(std::move(name)), copies_(std::make_unique<Copies>()) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length)
    throw std::runtime_error(name_ + ": " + std::to_string(bytes.size()) + " bytes are too few for a safetensors file");
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > std::min<std::uint64_t>(kMaxHeader, bytes.size() - sizeof length))
    throw std::runtime_error(name_ + ": no safetensors file, or cut off: header length " + std::to_string(length) +
                             " in a file of " + std::to_string(bytes.size()) + " bytes");
  const auto text = bytes.subspan(sizeof length, length), data = bytes.subspan(sizeof length + length);
  SafetensorsHeader header = parse_safetensors_header({reinterpret_cast<const char*>(text.data()), text.size()}, name_);

  for (SafetensorsHeader::Tensor& tensor : header.tensors) {
    const std::string where = name_ + ": tensor '" + tensor.name + "': ";
    const auto dtype = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                    [&](const FileDType& known) { return tensor.dtype == known.name; });
    if (dtype == std::end(kDTypes)) throw std::runtime_error(where + "unknown dtype '" + tensor.dtype + "'");
    if (tensor.begin > tensor.end || tensor.end > data.size())
      throw std::runtime_error(where + "data_offsets [" + std::to_string(tensor.begin) + ", " +
                               std::to_string(tensor.end) + "] do not lie in " + std::to_string(data.size()) +
                               " bytes of data");
    const std::uint64_t found = tensor.end - tensor.begin;
    const auto expected = bytes_of(tensor.shape, dtype->bits);
    if (expected != found)
      throw std::runtime_error(where + tensor.dtype + " " + text_of(tensor.shape) + " needs " +
                               (expected ? std::to_string(*expected) : "an impossible number of") +
                               " bytes, its data_offsets hold " + std::to_string(found));
    tensors_.push_back({data.data() + tensor.begin, found, dtype, tensor.shape});
  }
  check_layout(header, data.size(), name_);
  metadata_ = std::move(header.metadata);
  for (SafetensorsHeader::Tensor& tensor : header.tensors) {
    index_.emplace(tensor.name, names_.size());
    names_.push_back(std::move(tensor.name));
  }
}

ConstView SafetensorsFile::at(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  if (found == index_.end())
    throw std::runtime_error(name_ + ": no tensor '" + std::string(name) + "'" + did_you_mean(name, names_));
  const Tensor& tensor = tensors_[found->second];
  if (!tensor.dtype->ours)
    throw std::runtime_error(name_ + ": tensor '" + std::string(name) + "' has dtype " + tensor.dtype->name +
                             ", which is not supported");
  if (tensor.shape.size() > Shape::kMaxRank)
    throw std::runtime_error(name_ + ": tensor '" + std::string(name) + "' has shape " + text_of(tensor.shape) +
                             ", at most " + std::to_string(Shape::kMaxRank) + " dimensions are supported");
  const DType dtype = *tensor.dtype->ours;
  const void* data = tensor.data;
  if (reinterpret_cast<std::uintptr_t>(data) % size_of(dtype) != 0) {
    const std::lock_guard lock(copies_->mutex);
    Buffer& copy = copies_->buffers[found->second];
    if (copy.data() == nullptr) {
      copy = Buffer(tensor.bytes);
      std::memcpy(copy.data(), tensor.data, tensor.bytes);
    }
    data = copy.data();
  }
  return {data, dtype, Shape(tensor.shape)};
}

namespace {

// In pieces, so that a conversion takes no memory to speak of.
void write_converted(AtomicFile& file, const ConstView& view, DType as) {
  if (view.dtype == as) {
    file.write(view.data, static_cast<std::size_t>(view.bytes()));
    return;
  }
  constexpr std::int64_t kPiece = std::int64_t{1} << 18;
  const OwnedTensor piece(as, {std::min(kPiece, view.count())});
  for (std::int64_t at = 0; at < view.count(); at += kPiece) {
    const View converted = slice(piece.view(), 0, {std::min(kPiece, view.count() - at)});
    copy_converted(slice(view, at, converted.shape), converted);
    file.write(converted.data, static_cast<std::size_t>(converted.bytes()));
  }
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const NamedView> tensors,
                       const std::map<std::string, std::string>& metadata, std::optional<DType> as) {
  check_writable(path.string(), tensors);
  const auto dtype_of = [&](const NamedView& tensor) { return as.value_or(tensor.view.dtype); };
  const auto bytes_in_file = [&](const NamedView& tensor) {
    return tensor.view.count() * static_cast<std::int64_t>(size_of(dtype_of(tensor)));
  };
  std::vector<std::size_t> layout(tensors.size());
  std::iota(layout.begin(), layout.end(), std::size_t{0});
  std::stable_sort(layout.begin(), layout.end(), [&](std::size_t a, std::size_t b) {
    return size_of(dtype_of(tensors[a])) > size_of(dtype_of(tensors[b]));
  });
  std::vector<std::int64_t> begin(tensors.size());
  std::int64_t end = 0;
  for (const std::size_t i : layout) {
    begin[i] = end;
    end += bytes_in_file(tensors[i]);
  }

  std::string header = "{";
  try {
    if (!metadata.empty())
      header += "\"__metadata__\":" + nlohmann::json(metadata).dump() + (tensors.empty() ? "" : ",");
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const auto& [name, view] = tensors[i];
      if (name == "__metadata__") throw std::runtime_error("cannot write " + path.string() + ": reserved name " + name);
      header += (i ? "," : "") + nlohmann::json(name).dump() + ":{\"dtype\":\"" + file_name_of(dtype_of(tensors[i])) +
                "\",\"shape\":" + view.shape.text() + ",\"data_offsets\":[" + std::to_string(begin[i]) + "," +
                std::to_string(begin[i] + bytes_in_file(tensors[i])) + "]}";
    }
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error("cannot write " + path.string() + ": a name or metadata is no UTF-8: " + error.what());
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');

  AtomicFile file(path);
  const std::uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header);
  for (const std::size_t i : layout) write_converted(file, tensors[i].view, dtype_of(tensors[i]));
  file.commit();
}

}  // namespace omni
