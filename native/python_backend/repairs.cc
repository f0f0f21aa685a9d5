#include "repairs.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <mutex>

#include "../triton/instance_threads.h"
#include "child_takeover.h"
#include "child_waits.h"
#include "dead_owner.h"
#include "lost_replies.h"
#include "own_files.h"

namespace tritonode {
namespace {

struct Import {
  const char* name;
  void* function;
  // How often the library must import it: once, or at most once.
  bool required = true;
  // Where to keep what the import led to before.
  void** before = nullptr;
};

struct Version {
  int major = 0;
  int minor = 0;
  auto operator<=>(const Version&) const = default;
};

enum class Library { kPythonBackend, kServer };

struct Entry {
  Repair repair;
  const char* name;
  // The versions of Triton it was made for: from the first, before the second. Their sources were read for it; 2.51
  // (24.10) is what it is tested with.
  Version from;
  Version before;
  // What else tells these versions apart: a text that only later libraries hold, in case that the library is another
  // version's than the server. Null if it does not matter.
  const char* absent;
  std::vector<Import> imports;
  Library library = Library::kPythonBackend;
};

template <typename Function>
void* Address(Function* function) {
  return reinterpret_cast<void*>(function);
}

template <typename Function>
void** Place(Function*& function) {
  return reinterpret_cast<void**>(&function);
}

constexpr Version kAny = {1 << 20, 0};
// 24.04: the launcher as it is through 25.07. 25.08: its first wait for a child has a limit. 25.11: Boost 1.80.
constexpr Version k2404 = {2, 45};
constexpr Version k2410 = {2, 51};
constexpr Version k2508 = {2, 60};
constexpr Version k2511 = {2, 63};
constexpr const char* kLimitedFirstWait = "Waiting for the stub health monitoring thread to start";

// What each one does is told where its functions are declared.
const std::array<Entry, kRepairCount>& Table() {
  static FactoryFunctions& triton = TritonFactoryFunctions();
  static ThreadFunctions& threads = TritonThreadFunctions();
  static const auto& table = *new std::array<Entry, kRepairCount>{{
      // A child that is killed while it holds a lock ends this process. The lock is recovered. (dead_owner.h)
      {Repair::kDeadOwner, "dead-owner", k2404, k2511, nullptr,
       {{"pthread_mutex_lock", Address(&Lock)},
        {"pthread_mutex_trylock", Address(&TryLock), false},
        {"pthread_mutex_timedlock", Address(&TimedLock)},
        {"pthread_cond_wait", Address(&Wait)},
        {"pthread_cond_timedwait", Address(&TimedWait), false}}},
      // What a child that is killed leaves unanswered keeps its model, and the server, for ever. It is freed.
      // (lost_replies.h)
      {Repair::kLostReplies, "lost-replies", k2410, k2508, kLimitedFirstWait,
       {{"fork", Address(&ForkChild)},
        {"sem_init", Address(&InitSemaphore)},
        {"sem_wait", Address(&WaitForChild)},
        {"pthread_mutex_timedlock", Address(&TimedLock)},
        {"pthread_cond_wait", Address(&Wait)},
        {"TRITONBACKEND_ResponseFactoryNew", Address(&NewFactory), true, Place(triton.create)},
        {"TRITONBACKEND_ResponseFactoryDelete", Address(&DeleteFactory), true, Place(triton.remove)},
        {"TRITONBACKEND_ResponseFactorySendFlags", Address(&SendFactoryFlags), true, Place(triton.sendFlags)},
        {"TRITONBACKEND_ResponseFactoryIsCancelled", Address(&IsFactoryCancelled), true, Place(triton.isCancelled)},
        {"TRITONBACKEND_ResponseNewFromFactory", Address(&NewResponseFromFactory), true, Place(triton.newResponse)}}},
      // A load waits for ever for a child that is dead, and a request is sent to one without an end. The wait ends with the
      // child; the request fails. (child_waits.h, dead_owner.h)
      {Repair::kDeadChild, "dead-child", k2404, k2508, kLimitedFirstWait,
       {{"fork", Address(&ForkChild)},
        {"sem_init", Address(&InitSemaphore)},
        {"sem_wait", Address(&WaitForChild)},
        {"pthread_mutex_timedlock", Address(&TimedLock)}}},
      // A child that is short of CPU counts as dead after a second, and goes on writing into memory that is freed. It gets
      // ten seconds. (child_waits.h, dead_owner.h)
      {Repair::kSlowChild, "slow-child", k2404, k2508, kLimitedFirstWait,
       {{"fork", Address(&ForkChild)},
        {"sem_init", Address(&InitSemaphore)},
        {"sem_timedwait", Address(&WaitForChildUntil)},
        {"pthread_mutex_timedlock", Address(&TimedLock)}}},
      // Each load and each unload sleeps for a second to see whether a child is healthy that is dead, or has nothing left
      // to do. (child_waits.h)
      {Repair::kIdleChild, "idle-child", k2404, k2508, kLimitedFirstWait,
       {{"fork", Address(&ForkChild)},
        {"sem_init", Address(&InitSemaphore)},
        {"sem_wait", Address(&WaitForChild)},
        {"pthread_mutex_lock", Address(&Lock)},
        {"pthread_cond_wait", Address(&Wait)},
        {"sleep", Address(&SleepForHealth)}}},
      // A child that has imported everything can be taken in place of a new one. (child_takeover.h)
      {Repair::kWarmChild, "warm-child", k2404, k2508, kLimitedFirstWait,
       {{"fork", Address(&ForkChild)}, {"execvp", Address(&ExecuteOrGive)}}},
      // Every user of the machine can read the shared memory. (own_files.h)
      {Repair::kPrivateMemory, "private-memory", {}, kAny, nullptr,
       {{"shm_open", Address(&OpenPrivate)}, {"fchmod", Address(&ChangePrivateMode)}}},
      // A folder in /tmp stays behind, or is missing at the end. (own_files.h)
      {Repair::kTemporaryFolders, "temporary-folders", {}, kAny, nullptr,
       {{"mkdtemp", Address(&MakeTemporary)}, {"fts_open", Address(&WalkTree)}}},
      // A model that is unloaded while the thread of one of its instances ends a piece of work ends this process.
      // (../triton/instance_threads.h)
      {Repair::kBusyInstance, "busy-instance", k2404, kAny, nullptr,
       {{"_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE", Address(&StartThread), true,
         Place(threads.start)},
        {"_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE", Address(&WaitForWork), true, Place(threads.wait)}},
       Library::kServer},
  }};
  return table;
}

std::array<std::atomic<bool>, kRepairCount> active;

struct State {
  std::mutex mutex;
  std::string log;
};

State& state() {
  // Leaked on purpose: Triton's threads outlive static destructors.
  static State& state = *new State;
  return state;
}

Version Parse(const std::string& text) {
  Version version;
  if (std::sscanf(text.c_str(), "%d.%d", &version.major, &version.minor) != 2) return {};
  return version;
}

// Why the repair is not for this library; empty if it is.
std::string Objection(const Entry& entry, const ImportTable& imports, Version version) {
  if (version < entry.from || version >= entry.before) return "made for other versions of Triton";
  if (entry.absent != nullptr && imports.Contains(entry.absent)) return "the library is another version's";
  for (const Import& import : entry.imports) {
    const size_t count = imports.Count(import.name);
    if (count == 1 || (count == 0 && !import.required)) continue;
    return "the library imports " + std::string(import.name) + " " + std::to_string(count) + " times, not once";
  }
  return {};
}

Status CheckNames(const std::vector<std::string>& off) {
  std::string known = "all";
  for (const Entry& entry : Table()) known += std::string(", ") + entry.name;
  for (const std::string& name : off) {
    const auto& table = Table();
    const bool found = std::any_of(table.begin(), table.end(), [&](const Entry& entry) { return name == entry.name; });
    if (!found && name != "all") return {"OPTION", "'" + name + "' is not a repair; known are " + known};
  }
  return {};
}

}  // namespace

bool IsActive(Repair repair) { return active[static_cast<size_t>(repair)].load(std::memory_order_relaxed); }

void Report(const std::string& line) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  const int fd = s.log.empty() ? -1 : open(s.log.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return;
  const std::string text = "tritonode: " + line + "\n";
  // A log that is full or gone must not stop the thread that has something to say.
  [[maybe_unused]] const ssize_t written = write(fd, text.data(), text.size());
  close(fd);
}

Status RepairTriton(const RepairOptions& options, std::string* summary) {
  Status status = CheckNames(options.off);
  if (!status.ok()) return status;
  void* library = dlopen(options.library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* message = dlerror();
    return {"LIBRARY", "cannot open Triton's Python backend: " + (message == nullptr ? options.library : message)};
  }
  ImportTable backend;
  status = ImportTable::Read(library, &backend);
  if (!status.ok()) return status;

  State& s = state();
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    s.log = options.privateDirectory.empty() ? std::string() : options.privateDirectory + "/log";
  }
  SetTemporaryLinks(options.privateDirectory);
  const auto isOff = [&](const char* name) {
    return std::any_of(options.off.begin(), options.off.end(), [&](const auto& each) { return each == name || each == "all"; });
  };
  std::string applied;
  std::string left;
  for (const Entry& entry : Table()) {
    ImportTable& imports = entry.library == Library::kServer ? *options.server : backend;
    const std::string objection =
        isOff(entry.name) ? "switched off" : Objection(entry, imports, Parse(options.version));
    active[static_cast<size_t>(entry.repair)] = objection.empty();
    if (objection.empty()) {
      applied += (applied.empty() ? "" : ", ") + std::string(entry.name);
    } else {
      left += "; without " + std::string(entry.name) + " (" + objection + ")";
      continue;
    }
    for (const Import& import : entry.imports) {
      void* target = imports.Target(import.name);
      if (import.before != nullptr && target != import.function) *import.before = target;
      status = imports.Redirect(import.name, import.function);
      if (!status.ok()) return status;
    }
  }
  *summary = "repairs of Triton " + options.version + ": " + (applied.empty() ? "none" : applied) + left;
  return {};
}

}  // namespace tritonode
