#include "children.h"

#include <sys/wait.h>

#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <string_view>

namespace tritonode {
namespace {

struct Children {
  std::mutex mutex;
  std::map<std::string, pid_t> byFile;
  // What was looked up in byFile.
  std::map<const void*, pid_t> byAddress;
  std::set<pid_t> ending;
  std::set<pid_t> mayEnd;
};

Children& children() {
  // Leaked on purpose: Triton's threads outlive static destructors.
  static Children& children = *new Children;
  return children;
}

}  // namespace

std::string SharedFileAt(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2) continue;
    if (at < begin || at >= end) continue;
    const size_t path = line.find("/dev/shm/");
    if (path == std::string::npos) return {};
    // The kernel's mark for a file whose name is gone (proc_pid_maps(5)).
    constexpr std::string_view kDeleted = " (deleted)";
    if (line.ends_with(kDeleted)) line.resize(line.size() - kDeleted.size());
    return line.substr(path);
  }
  return {};
}

void NoteChild(const void* address, pid_t child) {
  const std::string file = SharedFileAt(address);
  Children& c = children();
  const std::lock_guard<std::mutex> lock(c.mutex);
  c.mayEnd.erase(child);
  c.ending.erase(child);
  c.byAddress.clear();
  // Of each child one file; that of an earlier child with this number is gone.
  std::erase_if(c.byFile, [child](const auto& each) { return each.second == child; });
  if (!file.empty()) c.byFile[file] = child;
}

pid_t ChildAt(const void* address) {
  const std::string file = SharedFileAt(address);
  Children& c = children();
  const std::lock_guard<std::mutex> lock(c.mutex);
  const auto found = c.byFile.find(file);
  return found == c.byFile.end() ? 0 : found->second;
}

bool IsDead(pid_t child) {
  siginfo_t info{};
  if (waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0) return errno == ECHILD;
  return info.si_pid == child;
}

pid_t ChildUsing(const void* address) {
  Children& c = children();
  {
    const std::lock_guard<std::mutex> lock(c.mutex);
    const auto found = c.byAddress.find(address);
    if (found != c.byAddress.end()) return found->second;
  }
  const pid_t child = ChildAt(address);
  const std::lock_guard<std::mutex> lock(c.mutex);
  c.byAddress[address] = child;
  return child;
}

void ForgetAddresses() {
  Children& c = children();
  const std::lock_guard<std::mutex> lock(c.mutex);
  c.byAddress.clear();
}

void NoteEnd(pid_t child) {
  Children& c = children();
  const std::lock_guard<std::mutex> lock(c.mutex);
  c.ending.insert(child);
}

bool EndHasBegun(pid_t child) {
  Children& c = children();
  const std::lock_guard<std::mutex> lock(c.mutex);
  return c.ending.count(child) != 0;
}

timespec SoonFromNow() {
  constexpr long kPause = 200'000'000;
  timespec until{};
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += kPause;
  if (until.tv_nsec >= 1'000'000'000) {
    until.tv_sec++;
    until.tv_nsec -= 1'000'000'000;
  }
  return until;
}

void AllowEnd(pid_t child) {
  Children& c = children();
  const std::lock_guard<std::mutex> lock(c.mutex);
  c.mayEnd.insert(child);
}

bool MayEnd(pid_t child) {
  Children& c = children();
  const std::lock_guard<std::mutex> lock(c.mutex);
  return c.mayEnd.count(child) != 0;
}

}  // namespace tritonode
