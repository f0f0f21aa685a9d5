// Opens libtritonserver and what it needs, once per path, for the rest of the process's life.
#pragma once

#include <string>

#include "../common/elf_patcher.h"
#include "../common/status.h"
#include "api.h"

namespace tritonode {

// The function table of the library at `path`. `dependencyDirectory` (may be empty) holds the shared libraries that the
// wheel ships beside it without an RPATH. Errors: LIBRARY, with the loader's own words.
// The table lives for ever: the library is never closed, because Triton's threads and static state outlive any server.
Status OpenTriton(const std::string& path, const std::string& dependencyDirectory, const TritonApi** api);

// What the library that was opened at `path` imports.
ImportTable* ImportsOf(const std::string& path);

// For exit(): whatever the opened libraries delete from here on stays allocated. See library.cc.
void KeepTritonsMemory();

}  // namespace tritonode
