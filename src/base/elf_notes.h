#pragma once
// Notes of ELF files (System V ABI, chapter 5, "Note Section").

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace farpool {

// Go's linker leaves a note of this name and type.
inline constexpr const char* kGoNote = "Go";
inline constexpr uint32_t kGoBuildId = 4;

// The description of the note `name` of `type` in [notes, notes + bytes), a segment of PT_NOTE, and its size.
// Null: there is none, or the segment is broken before.
inline const uint8_t* FindNote(const uint8_t* notes, size_t bytes, const char* name, uint32_t type,
                               size_t* description_bytes) {
  const auto padded = [](size_t size) { return (size + 3) & ~size_t{3}; };
  const size_t name_bytes = std::strlen(name) + 1;
  for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= bytes;) {
    Elf64_Nhdr note;
    std::memcpy(&note, notes + at, sizeof(note));
    at += sizeof(note);
    const size_t description = at + padded(note.n_namesz);
    if (description + note.n_descsz > bytes) return nullptr;
    // Some have more than one zero behind their name.
    if (note.n_type == type && note.n_namesz >= name_bytes &&
        std::memcmp(notes + at, name, name_bytes) == 0) {
      *description_bytes = note.n_descsz;
      return notes + description;
    }
    at = description + padded(note.n_descsz);
  }
  return nullptr;
}

// The same in a loaded file.
inline const uint8_t* FindNote(const dl_phdr_info& file, const char* name, uint32_t type,
                               size_t* description_bytes) {
  for (unsigned i = 0; i < file.dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = file.dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const auto* const notes = reinterpret_cast<const uint8_t*>(file.dlpi_addr + segment.p_vaddr);
    const uint8_t* const found = FindNote(notes, segment.p_memsz, name, type, description_bytes);
    if (found != nullptr) return found;
  }
  return nullptr;
}

}  // namespace farpool
