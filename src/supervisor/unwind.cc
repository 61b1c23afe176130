#include "supervisor/unwind.h"

#include <cxxabi.h>
#include <elf.h>
#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>

namespace farpool {

namespace {

constexpr size_t kFramesMax = 128;
constexpr unsigned kRip = 16;
constexpr unsigned kRsp = 7;

struct EndDwfl {
  void operator()(Dwfl* dwfl) const { dwfl_end(dwfl); }
};

const Dwfl_Callbacks kCallbacks = {.find_elf = dwfl_build_id_find_elf,
                                   .find_debuginfo = dwfl_standard_find_debuginfo,
                                   .section_address = dwfl_offline_section_address,
                                   .debuginfo_path = nullptr};

// How far from the addresses in the file at `path` those in memory are, if its part at `offset` is at
// `start`.
bool BiasOf(const char* path, uint64_t start, uint64_t offset, uint64_t* bias) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) return false;
  Elf64_Ehdr head;
  bool found = false;
  if (fread(&head, sizeof(head), 1, file) == 1 && std::memcmp(head.e_ident, ELFMAG, SELFMAG) == 0 &&
      head.e_ident[EI_CLASS] == ELFCLASS64 && fseek(file, static_cast<long>(head.e_phoff), SEEK_SET) == 0) {
    Elf64_Phdr part;
    for (unsigned i = 0; i < head.e_phnum && !found && fread(&part, sizeof(part), 1, file) == 1; ++i) {
      if (part.p_type != PT_LOAD || offset + 4095 < part.p_offset || offset >= part.p_offset + part.p_filesz)
        continue;
      *bias = start - offset + part.p_offset - part.p_vaddr;
      found = true;
    }
  }
  fclose(file);
  return found;
}

std::unique_ptr<Dwfl, EndDwfl> Open(const TraceImage& image) {
  std::unique_ptr<Dwfl, EndDwfl> dwfl(dwfl_begin(&kCallbacks));
  if (!dwfl) return dwfl;
  dwfl_report_begin(dwfl.get());
  std::istringstream maps(std::string(image.text, image.text_bytes.load()));
  for (std::string line; std::getline(maps, line);) {
    unsigned long start, end, offset;
    int path_at = 0;
    if (sscanf(line.c_str(), "%lx-%lx %*s %lx %*s %*s %n", &start, &end, &offset, &path_at) != 3 ||
        path_at == 0)
      continue;
    const char* path = line.c_str() + path_at;
    uint64_t bias;
    if (BiasOf(path, start, offset, &bias)) dwfl_report_elf(dwfl.get(), path, path, -1, bias, true);
  }
  dwfl_report_end(dwfl.get(), nullptr, nullptr);
  return dwfl;
}

// The one thread that libdwfl sees is the sample that `current` points to.
pid_t NextThread(Dwfl*, void* current, void** thread_arg) {
  if (*thread_arg != nullptr) return 0;
  *thread_arg = current;
  return 1;
}

const TraceSample& Sample(const void* current) { return **static_cast<const TraceSample* const*>(current); }

bool ReadMemory(Dwfl*, Dwarf_Addr address, Dwarf_Word* word, void* current) {
  const TraceSample& sample = Sample(current);
  const uint64_t at = address - sample.registers[kRsp];
  if (at > sample.stack_bytes || at + sizeof(*word) > sample.stack_bytes) return false;
  std::memcpy(word, sample.stack + at, sizeof(*word));
  return true;
}

bool SetRegisters(Dwfl_Thread* thread, void* current) {
  Dwarf_Word words[17];
  std::copy(std::begin(Sample(current).registers), std::end(Sample(current).registers), words);
  return dwfl_thread_state_registers(thread, 0, 17, words);
}

struct Frames {
  Dwfl* dwfl;
  std::vector<std::string> names;
};

std::string NameOf(Dwfl* dwfl, Dwarf_Addr address) {
  Dwfl_Module* module = dwfl_addrmodule(dwfl, address);
  if (module == nullptr) return "?";
  GElf_Off offset;
  GElf_Sym symbol;
  const char* name = dwfl_module_addrinfo(module, address, &offset, &symbol, nullptr, nullptr, nullptr);
  if (name == nullptr) {
    const std::string path =
        dwfl_module_info(module, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
    return "[" + path.substr(path.rfind('/') + 1) + "]";
  }
  int status = 0;
  const std::unique_ptr<char, decltype(&free)> plain(abi::__cxa_demangle(name, nullptr, nullptr, &status),
                                                     &free);
  return status == 0 && plain ? plain.get() : name;
}

int OnFrame(Dwfl_Frame* frame, void* arg) {
  auto* frames = static_cast<Frames*>(arg);
  Dwarf_Addr pc;
  bool interrupted;
  if (!dwfl_frame_pc(frame, &pc, &interrupted) || pc == 0) return DWARF_CB_ABORT;
  // A return address is behind its call, perhaps behind its function.
  frames->names.push_back(NameOf(frames->dwfl, interrupted ? pc : pc - 1));
  return frames->names.size() < kFramesMax ? DWARF_CB_OK : DWARF_CB_ABORT;
}

const Dwfl_Thread_Callbacks kThread = {.next_thread = NextThread,
                                       .get_thread = nullptr,
                                       .memory_read = ReadMemory,
                                       .set_initial_registers = SetRegisters,
                                       .detach = nullptr,
                                       .thread_detach = nullptr};

}  // namespace

std::vector<std::vector<std::string>> UnwindSamples(const TraceRing& ring) {
  std::vector<std::vector<std::string>> stacks;
  const uint64_t count = std::min<uint64_t>(ring.faults.load(), TraceRing::kSamples);
  for (uint32_t image = 0; image <= TraceRing::kImages; ++image) {
    std::unique_ptr<Dwfl, EndDwfl> modules;
    const TraceSample* current = nullptr;
    for (uint64_t i = 0; i < count; ++i) {
      // Still busy: whoever took it was killed meanwhile.
      const TraceSample& sample = ring.samples[i];
      if (sample.image != image || sample.busy.load() || sample.registers[kRip] == 0) continue;
      current = &sample;
      if (image != 0 && !modules) {
        modules = Open(ring.images[image - 1]);
        if (modules) dwfl_attach_state(modules.get(), nullptr, 1, &kThread, &current);
      }
      Frames frames = {modules.get(), {}};
      if (modules) dwfl_getthread_frames(modules.get(), 1, OnFrame, &frames);
      if (frames.names.empty())
        frames.names.push_back(modules ? NameOf(modules.get(), sample.registers[kRip]) : "?");
      std::reverse(frames.names.begin(), frames.names.end());
      stacks.push_back(std::move(frames.names));
    }
  }
  return stacks;
}

}  // namespace farpool
