#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "engine/files.h"
#include "engine/pth.h"
#include "engine/zip_writer.h"

namespace omni {
namespace {

const char* storage_class(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return "HalfStorage";
    case DType::bf16:
      return "BFloat16Storage";
    case DType::f32:
      return "FloatStorage";
    case DType::f64:
      return "DoubleStorage";
    case DType::i64:
      return "LongStorage";
    case DType::i32:
      return "IntStorage";
    case DType::u8:
      return "ByteStorage";
    case DType::i8:  // stays in memory
      break;
  }
  throw std::logic_error("unknown dtype");
}

// Writes the opcodes of a state dict (engine/pickle.h). Nothing is memoised: a reader needs no memo for it.
class PickleWriter {
 public:
  std::string dictionary(std::span<const NamedView> tensors) {
    out_ = "\x80\x02}(";
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      text(tensors[i].name);
      tensor(tensors[i].view, i);
    }
    return out_ + "u.";
  }

 private:
  void tensor(const ConstView& view, std::size_t key) {
    global("torch._utils", "_rebuild_tensor_v2");
    out_ += "((";
    text("storage");
    global("torch", storage_class(view.dtype));
    text(std::to_string(key));
    text("cpu");
    integer(view.count());
    out_ += "tQ";
    integer(0);
    const Shape& shape = view.shape;
    out_ += '(';
    for (int dim = 0; dim < shape.rank(); ++dim) integer(shape[dim]);
    out_ += "t(";
    for (int dim = 0; dim < shape.rank(); ++dim) {
      std::int64_t stride = 1;
      for (int inner = dim + 1; inner < shape.rank(); ++inner) stride *= std::max<std::int64_t>(shape[inner], 1);
      integer(stride);
    }
    out_ += "t\x89";  // requires_grad: false
    global("collections", "OrderedDict");
    out_ += ")RtR";
  }
  void global(const std::string& module, const std::string& name) { out_ += "c" + module + "\n" + name + "\n"; }
  void text(const std::string& value) {
    out_ += 'X';
    little_endian(value.size(), 4);
    out_ += value;
  }
  void integer(std::int64_t value) {  // not negative
    const bool is_short = value <= 0x7fffffff;
    out_ += is_short ? "J" : "\x8a\x08";
    little_endian(static_cast<std::uint64_t>(value), is_short ? 4 : 8);
  }
  void little_endian(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) out_ += static_cast<char>(value >> 8 * i);
  }

  std::string out_;
};

// Forty digits that identify the content, as PyTorch writes them.
std::string serialization_id(const std::vector<ZipWriter::Member>& members) {
  std::uint64_t names = 0xcbf29ce484222325, contents = names;  // FNV-1a
  const auto mix = [](std::uint64_t& hash, std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
  for (const ZipWriter::Member& member : members) {
    for (const char c : member.name) mix(names, static_cast<unsigned char>(c));
    mix(contents, member.checksum);
  }
  char text[48];
  std::snprintf(text, sizeof text, "%020llu%020llu", static_cast<unsigned long long>(names),
                static_cast<unsigned long long>(contents));
  return text;
}

}  // namespace

void write_pth(const std::filesystem::path& path, std::span<const NamedView> tensors) {
  check_writable(path.string(), tensors);
  AtomicFile file(path);
  ZipWriter zip([&](const void* data, std::size_t bytes) { file.write(data, bytes); });
  const std::string folder = file.path().stem().string() + "/";
  zip.add(folder + "data.pkl", PickleWriter().dictionary(tensors));
  zip.add(folder + ".format_version", "1");
  zip.add(folder + ".storage_alignment", "64");
  zip.add(folder + "byteorder", "little");
  for (std::size_t i = 0; i < tensors.size(); ++i)
    zip.add(folder + "data/" + std::to_string(i),
            {static_cast<const std::byte*>(tensors[i].view.data), static_cast<std::size_t>(tensors[i].view.bytes())});
  zip.add(folder + "version", "3\n");
  zip.add(folder + ".data/serialization_id", serialization_id(zip.members()));
  zip.finish();
  file.commit();
}

}  // namespace omni
