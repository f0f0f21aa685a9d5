#include "elf_patcher.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>

namespace tritonode {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kJumpSlot = R_X86_64_JUMP_SLOT;
constexpr uint32_t kGlobalData = R_X86_64_GLOB_DAT;
#elif defined(__aarch64__)
constexpr uint32_t kJumpSlot = R_AARCH64_JUMP_SLOT;
constexpr uint32_t kGlobalData = R_AARCH64_GLOB_DAT;
#else
#error "tritonode is for x86-64 and AArch64"
#endif

struct Tables {
  const ElfW(Sym) * symbols = nullptr;
  const char* names = nullptr;
  const ElfW(Rela) * calls = nullptr;
  size_t callBytes = 0;
  const ElfW(Rela) * data = nullptr;
  size_t dataBytes = 0;
};

// glibc has made the addresses in a loaded library's dynamic section absolute.
Tables ReadDynamicSection(const link_map* map) {
  Tables tables;
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    switch (entry->d_tag) {
      case DT_SYMTAB: tables.symbols = reinterpret_cast<const ElfW(Sym)*>(entry->d_un.d_ptr); break;
      case DT_STRTAB: tables.names = reinterpret_cast<const char*>(entry->d_un.d_ptr); break;
      case DT_JMPREL: tables.calls = reinterpret_cast<const ElfW(Rela)*>(entry->d_un.d_ptr); break;
      case DT_PLTRELSZ: tables.callBytes = entry->d_un.d_val; break;
      case DT_RELA: tables.data = reinterpret_cast<const ElfW(Rela)*>(entry->d_un.d_ptr); break;
      case DT_RELASZ: tables.dataBytes = entry->d_un.d_val; break;
      default: break;
    }
  }
  return tables;
}

// The protection of the page at `address`, from the kernel: PROT_READ and so on; -1 if it is not mapped.
int ProtectionOf(uintptr_t address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char flags[5] = {};
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s", &begin, &end, flags) != 3) continue;
    if (address < begin || address >= end) continue;
    return (flags[0] == 'r' ? PROT_READ : 0) | (flags[1] == 'w' ? PROT_WRITE : 0) | (flags[2] == 'x' ? PROT_EXEC : 0);
  }
  return -1;
}

}  // namespace

Status ImportTable::Read(void* library, ImportTable* table) {
  link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) return {"LIBRARY", "dlinfo failed"};
  const Tables tables = ReadDynamicSection(map);
  if (tables.symbols == nullptr || tables.names == nullptr) {
    return {"LIBRARY", std::string("no symbols in the dynamic section of ") + map->l_name};
  }
  const auto read = [&](const ElfW(Rela) * first, size_t bytes) {
    for (size_t i = 0; first != nullptr && i < bytes / sizeof(ElfW(Rela)); ++i) {
      const auto type = static_cast<uint32_t>(ELF64_R_TYPE(first[i].r_info));
      if (type != kJumpSlot && type != kGlobalData) continue;
      const char* name = tables.names + tables.symbols[ELF64_R_SYM(first[i].r_info)].st_name;
      table->entries_[name].push_back(reinterpret_cast<void**>(map->l_addr + first[i].r_offset));
    }
  };
  read(tables.calls, tables.callBytes);
  read(tables.data, tables.dataBytes);
  table->path_ = map->l_name;
  return {};
}

size_t ImportTable::Count(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? 0 : found->second.size();
}

void* ImportTable::Target(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : std::atomic_ref<void*>(*found->second.front()).load();
}

bool ImportTable::Contains(const std::string& text) const {
  std::ifstream file(path_, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  return bytes.find(text) != std::string::npos;
}

Status ImportTable::Redirect(const std::string& name, void* function) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return {};
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (void** entry : found->second) {
    const auto address = reinterpret_cast<uintptr_t>(entry);
    void* start = reinterpret_cast<void*>(address & ~(page - 1));
    const int protection = ProtectionOf(address);
    if (protection < 0) return {"SYSTEM", "the entry of " + name + " is not mapped"};
    const bool writable = (protection & PROT_WRITE) != 0;
    if (!writable && mprotect(start, page, protection | PROT_WRITE) != 0) return SystemError("mprotect");
    std::atomic_ref<void*>(*entry).store(function);
    if (!writable && mprotect(start, page, protection) != 0) return SystemError("mprotect");
  }
  return {};
}

}  // namespace tritonode
