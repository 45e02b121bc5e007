// Run by the build: writes a C++ file that holds the text of the given source files, and for each instruction the lines
// where it is declared and where its kernels begin. models/source_index.h says what programs see of it.
//
//   source_index OUTPUT FILE...     paths as programs shall see them, relative to the working directory

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct File {
  std::string path, text;
};

struct Place {
  std::string path;
  long line = 0;  // from 1; 0: nowhere
};

struct Instruction {
  std::string type;
  Place header, cpu, cuda;
};

constexpr const char* kDelimiter = "source";

File read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  File file{path, {std::istreambuf_iterator<char>(in), {}}};
  if (file.text.find(std::string(")") + kDelimiter + "\"") != std::string::npos)
    throw std::runtime_error(path + ": holds the end of a raw string");
  return file;
}

long line_of(const std::string& text, std::ptrdiff_t at) {
  return 1 + std::count(text.begin(), text.begin() + at, '\n');
}

// Calls found(first group, line) for each match.
template <class Found>
void each_match(const File& file, const char* pattern, const Found& found) {
  const std::regex regex(pattern);
  for (std::sregex_iterator match(file.text.begin(), file.text.end(), regex), end; match != end; ++match)
    found(*match, line_of(file.text, match->position()));
}

std::map<std::string, Instruction> index(const std::vector<File>& files) {
  std::map<std::string, Instruction> out;  // by name
  std::map<std::string, std::string> names;
  for (const File& file : files)
    each_match(file, "struct (\\w+) \\{\\s+static constexpr const char\\* name = \"(\\w+)\";",
               [&](const std::smatch& match, long line) {
                 out[match[2]] = {match[1], {file.path, line}, {}, {}};
                 names[match[1]] = match[2];
               });
  for (const File& file : files)
    each_match(file, "void run\\(const (Cpu|Cuda)Context&(?: \\w+)?, const (\\w+)& \\w+\\) \\{",
               [&](const std::smatch& match, long line) {
                 const auto name = names.find(match[2]);
                 if (name == names.end()) return;  // a step inside of a kernel
                 Instruction& instruction = out[name->second];
                 (match[1] == "Cpu" ? instruction.cpu : instruction.cuda) = {file.path, line};
               });
  for (const auto& [name, instruction] : out)
    if (instruction.cpu.line == 0 || instruction.cuda.line == 0)
      throw std::runtime_error(instruction.header.path + ": no kernel found for " + instruction.type);
  return out;
}

void write(std::ostream& out, const std::vector<File>& files, const std::map<std::string, Instruction>& instructions) {
  const auto place = [](const Place& at) { return "{\"" + at.path + "\", " + std::to_string(at.line) + "}"; };
  out << "#include \"models/source_index.h\"\n\nnamespace omni {\nnamespace {\n\nconstexpr SourceFile kFiles[] = {\n";
  for (const File& file : files)
    out << "{\"" << file.path << "\", R\"" << kDelimiter << "(" << file.text << ")" << kDelimiter << "\"},\n";
  out << "};\n\nconstexpr InstructionSource kInstructions[] = {\n";
  for (const auto& [name, entry] : instructions)
    out << "{\"" << name << "\", " << place(entry.header) << ", " << place(entry.cpu) << ", " << place(entry.cuda)
        << "},\n";
  out << "};\n\n}  // namespace\n\n"
         "std::span<const SourceFile> source_files() { return kFiles; }\n"
         "std::span<const InstructionSource> instruction_sources() { return kInstructions; }\n\n}  // namespace omni\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 3) throw std::runtime_error("usage: source_index OUTPUT FILE...");
    std::vector<File> files;
    for (int i = 2; i < argc; ++i) files.push_back(read(argv[i]));
    std::ofstream out(argv[1], std::ios::binary);
    write(out, files, index(files));
    if (!out.flush()) throw std::runtime_error(std::string("cannot write ") + argv[1]);
  } catch (const std::exception& error) {
    std::cerr << "source_index: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
