// Which programs can be run with far memory, and what a shell would see of those that cannot be run at all.

#include "supervisor/program.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace farpool {
namespace {

namespace fs = std::filesystem;

struct ProgramTest : testing::Test {
  ProgramTest() {
    std::string name = (fs::temp_directory_path() / "farpool-program-test.XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    folder = name;
    if (const char* path = getenv("PATH"); path != nullptr) old_path = path;
  }
  ~ProgramTest() override {
    setenv("PATH", old_path.c_str(), 1);
    fs::remove_all(folder);
  }
  std::string File(const std::string& name, const std::string& contents, mode_t mode = 0755) {
    const std::string path = (folder / name).string();
    std::ofstream(path, std::ios::binary) << contents;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  // An ELF file with the program headers `types`.
  static std::string Elf(const std::vector<uint32_t>& types, uint16_t machine = EM_X86_64,
                         unsigned char elf_class = ELFCLASS64, uint64_t headers_at = sizeof(Elf64_Ehdr)) {
    Elf64_Ehdr header = {};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = elf_class;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = ET_EXEC;
    header.e_machine = machine;
    header.e_phoff = headers_at;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = static_cast<uint16_t>(types.size());
    std::string file(reinterpret_cast<const char*>(&header), sizeof(header));
    file.resize(headers_at);
    for (uint32_t type : types) {
      Elf64_Phdr segment = {};
      segment.p_type = type;
      file.append(reinterpret_cast<const char*>(&segment), sizeof(segment));
    }
    return file;
  }
  static std::string DynamicElf() { return Elf({PT_PHDR, PT_INTERP, PT_LOAD}); }
  static std::string StaticElf() { return Elf({PT_LOAD, PT_LOAD, PT_TLS}); }

  void ExpectRefused(const std::string& path, const std::string& because) {
    const Status s = CheckPreloadable(path);
    EXPECT_EQ(s.code(), Status::Code::kUnsupported) << path;
    EXPECT_NE(std::string(s.text()).find(because), std::string::npos) << s.text();
  }
  void ExpectTaken(const std::string& path) {
    const Status s = CheckPreloadable(path);
    EXPECT_TRUE(s.ok()) << s.text();
  }

  fs::path folder;
  std::string old_path;
};

TEST_F(ProgramTest, DynamicProgramsAreTakenStaticOnesRefused) {
  ExpectTaken(File("dynamic", DynamicElf()));
  ExpectRefused(File("static", StaticElf()), "statically linked");
  ExpectTaken("/proc/self/exe");
  // The headers may be anywhere in the file, and cut short.
  ExpectTaken(File("far headers", Elf({PT_INTERP}, EM_X86_64, ELFCLASS64, 5000)));
  ExpectRefused(File("short", StaticElf().substr(0, 100)), "statically linked");
}

TEST_F(ProgramTest, GoProgramsAreRefused) {
  // PT_NOTE with GNU's and then Go's, which has two zeros behind its name.
  const auto with_notes = [](const std::string& notes, uint64_t bytes) {
    std::string file = Elf({PT_INTERP, PT_NOTE, PT_LOAD});
    Elf64_Phdr segment = {};
    segment.p_type = PT_NOTE;
    segment.p_offset = file.size();
    segment.p_filesz = bytes;
    file.replace(sizeof(Elf64_Ehdr) + sizeof(segment), sizeof(segment),
                 reinterpret_cast<const char*>(&segment), sizeof(segment));
    return file + notes;
  };
  const auto note = [](const std::string& name, uint32_t type, const std::string& description) {
    const Elf64_Nhdr header = {static_cast<uint32_t>(name.size()), static_cast<uint32_t>(description.size()),
                               type};
    std::string text(reinterpret_cast<const char*>(&header), sizeof(header));
    for (const std::string& part : {name, description}) (text += part).resize((text.size() + 3) & ~size_t{3});
    return text;
  };
  const std::string gnu = note(std::string("GNU\0", 4), NT_GNU_BUILD_ID, "12345");
  const std::string go = note(std::string("Go\0\0", 4), 4, "zhSuX1vn");
  ExpectRefused(File("go", with_notes(gnu + go, gnu.size() + go.size())), "a Go program");
  ExpectTaken(File("gnu", with_notes(gnu + gnu, 2 * gnu.size())));
  ExpectTaken(File("another type", with_notes(note(std::string("Go\0\0", 4), 5, ""), 16)));
  ExpectTaken(File("another name", with_notes(note(std::string("Got\0", 4), 4, ""), 16)));
  // Notes that are cut short, or say that they are longer than they are.
  ExpectTaken(File("cut", with_notes(gnu + go, gnu.size() + go.size() - 8)));
  ExpectTaken(File("no file", with_notes("", 1 << 30)));
  ExpectTaken(File("long", with_notes(std::string(64, '\xff'), 64)));
}

TEST_F(ProgramTest, RefusalNamesTheFile) {
  const std::string path = File("static", StaticElf());
  ExpectRefused(path, "'" + path + "'");
}

TEST_F(ProgramTest, OtherMachinesAreRefused) {
  ExpectRefused(File("i386", Elf({PT_INTERP}, EM_386, ELFCLASS32)), "64-bit x86");
  ExpectRefused(File("arm", Elf({PT_INTERP}, EM_AARCH64)), "64-bit x86");
  ExpectRefused(File("x32", Elf({PT_INTERP}, EM_X86_64, ELFCLASS32)), "64-bit x86");
}

TEST_F(ProgramTest, ScriptIsJudgedByItsInterpreter) {
  const std::string dynamic = File("dynamic", DynamicElf());
  const std::string fixed = File("static", StaticElf());
  ExpectTaken(File("a", "#!" + dynamic + "\nexit 0\n"));
  ExpectTaken(File("b", "#! \t" + dynamic + " -x\n"));
  ExpectTaken(File("c", "#!" + dynamic));  // No end of line.
  ExpectRefused(File("d", "#!" + fixed + "\n"), "'" + fixed + "'");
  ExpectRefused(File("e", "#!  " + fixed + " -arg\n#!" + dynamic + "\n"), "'" + fixed + "'");
  // A script run by a script.
  ExpectRefused(File("f", "#!" + (folder / "e").string() + "\n"), "'" + fixed + "'");
  ExpectTaken(File("g", "#!" + (folder / "a").string() + "\n"));
}

TEST_F(ProgramTest, ScriptThatRunsItselfEnds) {
  const std::string path = (folder / "loop").string();
  ExpectTaken(File("loop", "#!" + path + "\n"));  // execve will say ELOOP.
}

// execve, or the shell, has the right words for these.
TEST_F(ProgramTest, WhatIsNoProgramIsLeftToExec) {
  ExpectTaken(File("empty", ""));
  ExpectTaken(File("text", "echo no first line\n"));
  ExpectTaken(File("half a header", StaticElf().substr(0, 40)));
  ExpectTaken(File("no interpreter", "#!\n"));
  ExpectTaken((folder / "absent").string());
}

TEST_F(ProgramTest, FindsAsTheShellDoes) {
  const std::string tool = File("tool", DynamicElf());
  const fs::path first = folder / "first", second = folder / "second";
  fs::create_directory(first);
  fs::create_directory(second);
  setenv("PATH", (first.string() + ":" + second.string()).c_str(), 1);
  EXPECT_EQ(FindProgram(tool).path, tool);  // With a slash PATH plays no part.
  File("second/it", DynamicElf());
  EXPECT_EQ(FindProgram("it").path, (second / "it").string());
  File("first/it", "not executable", 0644);
  EXPECT_EQ(FindProgram("it").path, (second / "it").string());
  fs::create_directory(first / "dir");
  File("second/dir", DynamicElf());
  EXPECT_EQ(FindProgram("dir").path, (second / "dir").string());
  File("first/it", DynamicElf());
  EXPECT_EQ(FindProgram("it").path, (first / "it").string());
  const Program found = FindProgram("it");
  EXPECT_TRUE(found.status.ok());
  EXPECT_EQ(found.exit_status, 0);
}

TEST_F(ProgramTest, FailsWithTheShellsNumbers) {
  setenv("PATH", folder.c_str(), 1);
  const std::string plain = File("plain", "data", 0644);
  struct {
    std::string name;
    int exit_status;
  } const cases[] = {
      {"absent", 127},
      {(folder / "absent").string(), 127},
      {plain + "/below", 127},  // A file is no folder.
      {plain, 126},
      {"plain", 126},
      {folder.string(), 126},
      {folder.string() + "/", 126},
  };
  for (const auto& c : cases) {
    const Program found = FindProgram(c.name);
    EXPECT_EQ(found.exit_status, c.exit_status) << c.name;
    EXPECT_FALSE(found.status.ok()) << c.name;
    EXPECT_NE(std::string(found.status.text()).find("'" + c.name + "'"), std::string::npos)
        << found.status.text();
  }
}

}  // namespace
}  // namespace farpool
