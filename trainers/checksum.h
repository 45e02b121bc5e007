#pragma once
// A 64-bit checksum against damage: truncation and flipped bits. Not against an adversary.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace omni {

// Any change within one aligned block of 8 bytes changes the result; other changes go unnoticed with probability 2^-64.
std::uint64_t checksum(std::span<const std::byte> bytes);
inline std::uint64_t checksum(std::string_view text) { return checksum(std::as_bytes(std::span(text))); }
std::uint64_t checksum_of_file(const std::filesystem::path& path);

std::string hex(std::uint64_t number);  // 16 digits

}  // namespace omni
