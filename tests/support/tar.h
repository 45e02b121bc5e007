#pragma once
// Tar archives for tests, written by hand: the reader under test uses a library, and shares nothing with this.

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace omni {

// The ustar header of a member (paths up to 100 bytes, sizes below 8 GiB); '0' is a file, '5' a folder, '2' a link.
inline std::string tar_header(const std::string& path, std::uint64_t size, char type = '0') {
  std::string header(512, '\0');
  header.replace(0, path.size(), path);
  header.replace(100, 8, std::string("0000644\0", 8));
  header.replace(108, 8, std::string("0000000\0", 8));
  header.replace(116, 8, std::string("0000000\0", 8));
  char number[16];
  std::snprintf(number, sizeof number, "%011llo", static_cast<unsigned long long>(size));
  header.replace(124, 12, std::string(number, 12));
  header.replace(136, 12, std::string("00000000000\0", 12));
  header.replace(148, 8, "        ");
  header[156] = type;
  header.replace(257, 8,
                 std::string("ustar\0"
                             "00",
                             8));
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  std::snprintf(number, sizeof number, "%06o", sum);
  header.replace(148, 8, std::string(number, 7) + " ");
  return header;
}

inline std::string tar_end() { return std::string(1024, '\0'); }

// A whole archive of files, in this order.
inline std::string tar_file(const std::vector<std::pair<std::string, std::string>>& members) {
  std::string out;
  for (const auto& [path, bytes] : members) {
    out += tar_header(path, bytes.size()) + bytes;
    out.append((512 - bytes.size() % 512) % 512, '\0');
  }
  return out + tar_end();
}

}  // namespace omni
