#include "library.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace tritonode {
namespace {

namespace fs = std::filesystem;

bool StartsWith(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

std::string LastDlError() {
  const char* message = dlerror();
  return message == nullptr ? "unknown error" : message;
}

// The files to open before libtritonserver. That library itself and libpython are left out: the first must be opened
// with other flags, the second would put a Python interpreter's symbols into the host.
Status ListDependencies(const std::string& directory, std::vector<std::string>* files) {
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.find(".so") == std::string::npos) continue;
    if (StartsWith(name, "libtritonserver") || StartsWith(name, "libpython")) continue;
    files->push_back(at->path().string());
  }
  if (error) return {"LIBRARY", "cannot list " + directory + ": " + error.message()};
  std::sort(files->begin(), files->end());
  return {};
}

// The libraries need each other in an order that is not recorded: each round opens what can be opened, until none is left
// or a round opens none. RTLD_DEEPBIND keeps hundreds of libssl and libcurl symbols from binding to Node's own OpenSSL;
// libdcgm is C++ and crashes with it (COPY relocations of std::cout).
void OpenDependencies(std::vector<std::string> files, std::string* problems) {
  while (!files.empty()) {
    std::vector<std::string> left;
    problems->clear();
    for (const std::string& file : files) {
      int flags = RTLD_NOW | RTLD_LOCAL;
      if (!StartsWith(fs::path(file).filename().string(), "libdcgm")) flags |= RTLD_DEEPBIND;
      if (dlopen(file.c_str(), flags) != nullptr) continue;
      left.push_back(file);
      *problems += "; " + LastDlError();
    }
    if (left.size() == files.size()) return;
    files.swap(left);
  }
}

// A library with a malloc of its own that this process was started with (LD_PRELOAD); empty if there is none. With
// RTLD_DEEPBIND a library finds libc's malloc first, and what one of the two has allocated is freed by the other.
// The program itself is left out: Node's symbol of that name is libc's, and Electron's own allocator is made for this.
std::string PreloadedAllocator() {
  std::vector<std::string> libraries;
  const auto collect = [](dl_phdr_info* info, size_t, void* to) {
    static_cast<std::vector<std::string>*>(to)->emplace_back(info->dlpi_name);
    return 0;
  };
  dl_iterate_phdr(collect, &libraries);
  for (const std::string& library : libraries) {
    void* handle = library.empty() ? nullptr : dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (handle == nullptr) continue;
    Dl_info found{};
    // A handle's search goes on in what the library needs; the loader's list ends for us with libc.
    const bool any = dladdr(dlsym(handle, "malloc"), &found) != 0;
    const bool libc = library.find("/libc.so.") != std::string::npos || library.find("/libc-") != std::string::npos;
    dlclose(handle);
    if (libc) return {};
    if (any && library == found.dli_fname) return library;
  }
  return {};
}

struct Library {
  const TritonApi* api = nullptr;
  ImportTable imports;
};

struct Libraries {
  std::mutex mutex;
  std::map<std::string, Library> byPath;
};

Libraries& libraries() {
  // Leaked on purpose: static destructors run while Triton's threads still do.
  static Libraries& libraries = *new Libraries;
  return libraries;
}

void Keep(void*) {}
void KeepSized(void*, size_t) {}

}  // namespace

Status OpenTriton(const std::string& path, const std::string& dependencyDirectory, const TritonApi** api) {
  Libraries& l = libraries();
  const std::lock_guard<std::mutex> lock(l.mutex);

  if (const auto found = l.byPath.find(path); found != l.byPath.end()) {
    *api = found->second.api;
    return {};
  }

  std::string problems;
  if (!dependencyDirectory.empty()) {
    std::vector<std::string> files;
    Status status = ListDependencies(dependencyDirectory, &files);
    if (!status.ok()) return status;
    const std::string allocator = PreloadedAllocator();
    if (!allocator.empty()) return {"HOST", allocator + " replaces malloc, beside which Triton's libraries can't be loaded"};
    OpenDependencies(std::move(files), &problems);
  }

  // Neither RTLD_DEEPBIND (crashes Node, see above) nor RTLD_GLOBAL (other addons must not see its symbols).
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {"LIBRARY", "cannot open Triton: " + LastDlError() + problems};

  auto table = std::make_unique<TritonApi>();
  Status status = table->Resolve(library, path);
  if (!status.ok()) return status;
  Library opened;
  status = ImportTable::Read(library, &opened.imports);
  if (!status.ok()) return status;
  *api = opened.api = table.release();
  l.byPath[path] = std::move(opened);
  return {};
}

ImportTable* ImportsOf(const std::string& path) {
  Libraries& l = libraries();
  const std::lock_guard<std::mutex> lock(l.mutex);
  return &l.byPath.at(path).imports;
}

// Where a server has not been deleted, exit() destroys the memory manager's list of buffers and then the manager, which
// reads the list once more (core r24.10, src/pinned_memory_manager.cc: instance_ is defined before
// allocated_pinned_memory_buffers_). It ends the process with SIGBUS or SIGSEGV where the freed memory was used again.
// Unfreed, the memory still holds what the destructor expects; threads of Triton's that go on find theirs, too.
void KeepTritonsMemory() {
  Libraries& l = libraries();
  const std::lock_guard<std::mutex> lock(l.mutex);
  for (auto& [path, library] : l.byPath) {
    // operator delete(void*), delete(void*, size_t) and delete[](void*). A failure leaves the exit as it was.
    library.imports.Redirect("_ZdlPv", reinterpret_cast<void*>(&Keep));
    library.imports.Redirect("_ZdlPvm", reinterpret_cast<void*>(&KeepSized));
    library.imports.Redirect("_ZdaPv", reinterpret_cast<void*>(&Keep));
  }
}

}  // namespace tritonode
