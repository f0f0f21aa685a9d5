#include "owner_dead.h"

#include <dlfcn.h>
#include <elf.h>
#include <fts.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "dead_child.h"

namespace tritonode {
namespace {

int Recover(pthread_mutex_t* mutex, int result) {
  return result == EOWNERDEAD ? pthread_mutex_consistent(mutex) : result;
}

int Lock(pthread_mutex_t* mutex) { return Recover(mutex, pthread_mutex_lock(mutex)); }
int TryLock(pthread_mutex_t* mutex) { return Recover(mutex, pthread_mutex_trylock(mutex)); }
int TimedLock(pthread_mutex_t* mutex, const timespec* until) {
  // Used for the stub's health alone, with a second: as for its messages (dead_child.h), too little on a busy machine.
  constexpr time_t kPatienceSeconds = 2;
  const timespec later = {until->tv_sec + kPatienceSeconds, until->tv_nsec};
  return Recover(mutex, pthread_mutex_timedlock(mutex, &later));
}
// Waking up takes the mutex again.
int Wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  return Recover(mutex, pthread_cond_wait(condition, mutex));
}
int TimedWait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until) {
  return Recover(mutex, pthread_cond_timedwait(condition, mutex, until));
}

// The backend makes its shared memory readable for every user of the machine, and prompts and answers pass through it.
int OpenPrivate(const char* name, int flags, mode_t mode) { return shm_open(name, flags, mode & (S_IRUSR | S_IWUSR)); }
int ChangePrivateMode(int fd, mode_t mode) { return fchmod(fd, mode & S_IRWXU); }

// The backend makes a folder in /tmp for packed Python environments and removes it when its last server ends. For a
// process that ends before, a link in the private directory tells who removes that directory.
std::string& TemporaryLinks() {
  static auto& directory = *new std::string;
  return directory;
}
char* MakeTemporary(char* pattern) {
  char* made = mkdtemp(pattern);
  const char* name = made == nullptr ? nullptr : std::strrchr(made, '/');
  if (name != nullptr && !TemporaryLinks().empty()) {
    // Without the link the folder stays behind, as it does without this function.
    if (symlink(made, (TemporaryLinks() + name).c_str()) != 0) errno = 0;
  }
  return made;
}

// Whatever cleans /tmp may have taken that folder from under a host that has run for days. The backend walks through it
// when its last server ends, and throws out of a destructor if it is not there; an empty one will do.
FTS* WalkTree(char* const* paths, int options, int (*compare)(const FTSENT**, const FTSENT**)) {
  for (char* const* path = paths; *path != nullptr; ++path) {
    if (access(*path, F_OK) != 0 && errno == ENOENT) mkdir(*path, S_IRWXU);
  }
  return fts_open(paths, options, compare);
}

struct Wrapper {
  const char* name;
  void* function;
};

const std::array<Wrapper, 14> kWrappers = {{
    {"pthread_mutex_lock", reinterpret_cast<void*>(&Lock)},
    {"pthread_mutex_trylock", reinterpret_cast<void*>(&TryLock)},
    {"pthread_mutex_timedlock", reinterpret_cast<void*>(&TimedLock)},
    {"pthread_cond_wait", reinterpret_cast<void*>(&Wait)},
    {"pthread_cond_timedwait", reinterpret_cast<void*>(&TimedWait)},
    {"fork", reinterpret_cast<void*>(&ForkChild)},
    {"sem_init", reinterpret_cast<void*>(&InitSemaphore)},
    {"sem_wait", reinterpret_cast<void*>(&WaitForChild)},
    {"sem_timedwait", reinterpret_cast<void*>(&WaitForChildUntil)},
    {"sleep", reinterpret_cast<void*>(&SleepUnlessIdle)},
    {"shm_open", reinterpret_cast<void*>(&OpenPrivate)},
    {"fchmod", reinterpret_cast<void*>(&ChangePrivateMode)},
    {"mkdtemp", reinterpret_cast<void*>(&MakeTemporary)},
    {"fts_open", reinterpret_cast<void*>(&WalkTree)},
}};

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

// The table may lie in memory that was made read-only after relocation; it stays writable then, as in a library that
// was linked without that protection (the wheel's is).
bool Redirect(const link_map* map, const ElfW(Rela) & relocation, void* function) {
  const uintptr_t slot = map->l_addr + relocation.r_offset;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  if (mprotect(reinterpret_cast<void*>(slot & ~(page - 1)), page, PROT_READ | PROT_WRITE) != 0) return false;
  std::atomic_ref<void*>(*reinterpret_cast<void**>(slot)).store(function);
  return true;
}

bool RedirectAll(const link_map* map, const Tables& tables, const ElfW(Rela) * first, size_t bytes) {
  for (size_t i = 0; i < bytes / sizeof(ElfW(Rela)); ++i) {
    const uint32_t type = static_cast<uint32_t>(ELF64_R_TYPE(first[i].r_info));
    if (type != kJumpSlot && type != kGlobalData) continue;
    const char* name = tables.names + tables.symbols[ELF64_R_SYM(first[i].r_info)].st_name;
    for (const Wrapper& wrapper : kWrappers) {
      if (std::strcmp(name, wrapper.name) == 0 && !Redirect(map, first[i], wrapper.function)) return false;
    }
  }
  return true;
}

}  // namespace

Status GuardPythonBackend(const std::string& path, const std::string& privateDirectory) {
  TemporaryLinks() = privateDirectory;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* message = dlerror();
    return {"LIBRARY", std::string("cannot open Triton's Python backend: ") + (message == nullptr ? path : message)};
  }
  link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) return {"LIBRARY", "dlinfo failed for " + path};
  const Tables tables = ReadDynamicSection(map);
  if (tables.symbols == nullptr || tables.names == nullptr ||
      !RedirectAll(map, tables, tables.calls, tables.calls == nullptr ? 0 : tables.callBytes) ||
      !RedirectAll(map, tables, tables.data, tables.data == nullptr ? 0 : tables.dataBytes)) {
    return {"LIBRARY", "cannot guard the locks of " + path};
  }
  return {};
}

}  // namespace tritonode
