#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace omni {

// The folder `name` of the golden data, or all of it (tests/golden/README.md): in $OMNI_GOLDENS or, where that is not
// set or empty, the committed one.
inline std::filesystem::path golden_folder(const std::string& name = "") {
  const char* given = std::getenv("OMNI_GOLDENS");
  const std::filesystem::path all = given != nullptr && *given != '\0'
                                        ? std::filesystem::path(given)
                                        : std::filesystem::path(OMNI_SOURCE_DIR) / "tests/golden/data";
  const std::filesystem::path folder = name.empty() ? all : all / name;
  if (!std::filesystem::is_directory(folder))
    throw std::runtime_error("no golden data: expected the folder " + folder.string());
  return folder;
}

}  // namespace omni
