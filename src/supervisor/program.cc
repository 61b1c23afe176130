#include "supervisor/program.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/elf_notes.h"
#include "run/layout.h"

namespace farpool {

namespace {

Status Refuse(const std::string& text) { return Status(Status::Code::kUnsupported, text.c_str()); }

Program Failed(int exit_status, const std::string& text) {
  return {"", exit_status, Status(Status::Code::kNotFound, text.c_str())};
}

// Whether `file`, whose segment of notes this is, was linked by Go.
bool IsGo(std::ifstream* file, const Elf64_Phdr& notes) {
  constexpr size_t kNotesMax = 64 << 10;
  std::vector<uint8_t> bytes(std::min<uint64_t>(notes.p_filesz, kNotesMax));
  file->seekg(static_cast<std::streamoff>(notes.p_offset));
  size_t found;
  return file->read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size())) &&
         FindNote(bytes.data(), bytes.size(), kGoNote, kGoBuildId, &found) != nullptr;
}

constexpr int kInterpretersMax = 4;  // A script run by a script ..., as the kernel allows.

Status CheckFile(const std::string& path, int depth) {
  std::ifstream file(path, std::ios::binary);
  char head[256] = {};
  file.read(head, sizeof(head) - 1);
  // Execute permission without read: nothing can be said, and the kernel ignores the preload for none of
  // these.
  if (!file && file.gcount() == 0) return Status::Ok();
  if (head[0] == '#' && head[1] == '!') {
    std::istringstream line(std::string(head + 2, std::strcspn(head + 2, "\n")));
    std::string interpreter;
    line >> interpreter;
    if (interpreter.empty() || depth >= kInterpretersMax) return Status::Ok();
    return CheckFile(interpreter, depth + 1);
  }
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && (info.st_mode & S_ISUID) != 0 && info.st_uid != geteuid())
    return Refuse(
        "'" + path +
        "' is set-user-ID: the loader ignores preloaded libraries there; run a copy without that bit, "
        "or --via swap as root");
  // Root's runs keep what set-group-ID gives (others have no_new_privs), and the loader goes by that.
  if (geteuid() == 0 && stat(path.c_str(), &info) == 0 && (info.st_mode & S_ISGID) != 0 &&
      (info.st_mode & S_IXGRP) != 0 && info.st_gid != getegid())
    return Refuse("'" + path +
                  "' is set-group-ID: the loader ignores preloaded libraries there; run a copy without that "
                  "bit, or --via swap");
  if (file.gcount() < static_cast<std::streamsize>(sizeof(Elf64_Ehdr)) ||
      std::memcmp(head, ELFMAG, SELFMAG) != 0)
    return Status::Ok();  // execve or the shell will say.
  Elf64_Ehdr header;
  std::memcpy(&header, head, sizeof(header));
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
    return Refuse(
        "'" + path +
        "' is not a 64-bit x86 program: it cannot have far memory; use a 64-bit build, or --via swap "
        "as root");
  bool dynamic = false;
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    file.clear();
    file.seekg(static_cast<std::streamoff>(header.e_phoff) +
               i * static_cast<std::streamoff>(sizeof(segment)));
    if (!file.read(reinterpret_cast<char*>(&segment), sizeof(segment))) break;
    dynamic |= segment.p_type == PT_INTERP;
    if (segment.p_type == PT_NOTE && IsGo(&file, segment))
      return Refuse(
          "'" + path +
          "' is a Go program: it makes system calls in a way of its own, so its memory cannot be far; "
          "use --via swap as root");
  }
  // The loader as a program runs one that it preloads into.
  const bool loader = std::filesystem::path(path).filename().string().starts_with("ld-linux-x86-64.so");
  if (dynamic || loader) return Status::Ok();
  return Refuse("'" + path +
                "' is statically linked: nothing can be preloaded into it; use a dynamically linked build, "
                "or --via swap "
                "as root");
}

}  // namespace

Program FindProgram(const std::string& name) {
  auto check = [](const std::string& path) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return errno;
    if (S_ISDIR(info.st_mode)) return EACCES;
    return access(path.c_str(), X_OK) == 0 ? 0 : errno;
  };
  if (name.find('/') != std::string::npos) {
    const int error = check(name);
    if (error == 0) return {name, 0, Status::Ok()};
    return Failed(error == ENOENT || error == ENOTDIR ? 127 : 126,
                  "cannot run '" + name + "': " + strerror(error));
  }
  if (name.empty()) return Failed(127, "cannot run '': command not found");
  const char* path = getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/bin:/usr/bin");
  bool found_but_denied = false;
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = (folder.empty() ? "." : folder) + "/" + name;
    const int error = check(candidate);
    if (error == 0) return {candidate, 0, Status::Ok()};
    if (error == EACCES) found_but_denied = true;
  }
  if (found_but_denied) return Failed(126, "cannot run '" + name + "': " + strerror(EACCES));
  return Failed(127, "cannot run '" + name + "': command not found");
}

Status CheckPreloadable(const std::string& path) { return CheckFile(path, 0); }

// By what the runtime maps first, and in programs that stay near, too.
bool InsideRun() { return msync(reinterpret_cast<void*>(kTrampoline), kPageBytes, MS_ASYNC) == 0; }

Result<std::string> FindRuntimeLibrary() {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return Refuse("/proc is not mounted here, and farpool run needs it");
  const fs::path folder = self.parent_path();
  for (const char* place : {"../src/preload", "../lib/farpool", "../lib/x86_64-linux-gnu/farpool", "."}) {
    const fs::path candidate = (folder / place / "libfarpool-preload.so").lexically_normal();
    if (access(candidate.c_str(), R_OK) == 0) {
      if (candidate.string().find_first_of(": ") != std::string::npos)
        return Refuse("the path '" + candidate.string() +
                      "' has a space or colon: the loader cannot preload it");
      return candidate.string();
    }
  }
  return Status(Status::Code::kNotFound,
                "libfarpool-preload.so is not beside this program: build or install all of farpool");
}

}  // namespace farpool
