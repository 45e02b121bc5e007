// Fuzz target: a .pth file from hostile bytes, taken as an archive and as the pickle inside one.

#include "engine/pth.h"

#include <cstdint>
#include <stdexcept>

#include "engine/zip_writer.h"

namespace {

using namespace omni;

void read_all(const PthValue& value) {
  if (const PthTensor* tensor = value.get<PthTensor>()) {
    std::size_t bytes = size_of(tensor->dtype);
    for (const std::int64_t size : tensor->sizes) bytes *= static_cast<std::size_t>(size);
    volatile unsigned sum = 0;
    for (std::size_t i = 0; i < bytes; ++i) sum = sum + std::to_integer<unsigned>(tensor->data.get()[i]);
  }
  if (const auto* items = value.get<PthValue::Dictionary>())
    for (const PthValue::Item& item : *items) read_all(item.value);
  if (const auto* items = value.get<PthValue::List>())
    for (const PthValue& item : *items) read_all(item);
  if (const auto* tuple = value.get<PthValue::Tuple>())
    for (const PthValue& item : tuple->items) read_all(item);
}

ZipWriter::Sink into(std::string& bytes) {
  return [&](const void* data, std::size_t size) { bytes.append(static_cast<const char*>(data), size); };
}

// A valid archive with this pickle and one storage of 48 bytes: damage to the pickle passes the archive's checksums.
std::string archive_of(std::string_view pickle) {
  std::string bytes;
  ZipWriter zip(into(bytes));
  zip.add("a/data.pkl", pickle);
  zip.add("a/data/0", std::string(48, '\1'));
  zip.finish();
  return bytes;
}

std::string tensor(const std::string& storage_class, char count) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((X" + std::string("\7\0\0\0storage", 11) + "ctorch\n" + storage_class +
         "\nX" +
         std::string(
             "\1\0\0\0"
             "0",
             5) +
         "X" + std::string("\3\0\0\0cpu", 7) + "K" + count + "tQK\1K\2K\3\x86K\4K\1\x86\x89" +
         "ccollections\nOrderedDict\n)RtR";
}

void read_archive(std::span<const std::byte> bytes) try {
  read_all(parse_pth(bytes, "input"));
} catch (const std::runtime_error&) {
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const std::string dictionary = "\x80\2}q\1(X" + std::string("\1\0\0\0", 4) + "a" + tensor("FloatStorage", 12) + "u.";
  const std::string list = "\x80\2](" + tensor("HalfStorage", 24) + "q\1h\1e.";
  const std::string plain =
      "\x80\2]q\1(K\1J\xff\xff\xff\xff\x8a\1\xf0G?\xf8" + std::string(6, '\0') + "N\x88\x86" + "e.";
  return {dictionary, list, plain, archive_of(dictionary)};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  read_archive(std::as_bytes(std::span(data, size)));
  const std::string wrapped = archive_of({reinterpret_cast<const char*>(data), size});
  read_archive(std::as_bytes(std::span(wrapped)));
  return 0;
}
