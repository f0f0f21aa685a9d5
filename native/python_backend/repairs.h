// What is wrong with Triton's Python backend (libtriton_python.so), and with its core where that meets a backend, for a
// host that must outlive its children, and what is done about it. The table in repairs.cc has it all in one place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../common/elf_patcher.h"
#include "../common/status.h"

namespace tritonode {

enum class Repair : uint32_t {
  kDeadOwner, kLostReplies, kDeadChild, kSlowChild, kIdleChild, kWarmChild, kPrivateMemory, kTemporaryFolders, kBusyInstance
};
inline constexpr size_t kRepairCount = 9;

struct RepairOptions {
  // libtriton_python.so; Triton must open it under the same path, or it gets another copy.
  std::string library;
  // libtritonserver's (triton/library.h).
  ImportTable* server = nullptr;
  // Triton's version ("2.51.0"), as its server says it.
  std::string version;
  // Names of repairs to leave out, or "all".
  std::vector<std::string> off;
  // The server's own: gets links to folders in /tmp, and in its file "log" what the repairs have to say.
  std::string privateDirectory;
};

// Opens the library, which stays open, and applies every repair that was made for this version and finds in the library
// what it expects. Again for the same library: only `off` and `privateDirectory` count. `summary` says in one line which
// are active, and why others are not. LIBRARY if it can't be opened; OPTION for a name in `off` that is no repair's.
Status RepairTriton(const RepairOptions& options, std::string* summary);

bool IsActive(Repair repair);
// One line for the log of the server.
void Report(const std::string& line);

}  // namespace tritonode
