#pragma once
// The sources that this program was built from, for those who show what it does: the text of all files under kernels/
// and autograd/ops/, the parts of the page of trace --html, and where each instruction stands. Made by
// cmake/source_index.cpp on each build.

#include <span>
#include <string_view>

namespace omni {

struct SourceFile {
  std::string_view path, text;  // path from the root of the repository
};

struct SourceLine {
  std::string_view path;
  int line;  // from 1
};

struct InstructionSource {
  std::string_view name;
  SourceLine header, cpu, cuda;  // its struct, and its kernels' run()
};

std::span<const SourceFile> source_files();
std::span<const InstructionSource> instruction_sources();

}  // namespace omni
