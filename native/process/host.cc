#include "host.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include "../triton/call.h"
#include "../python_backend/repairs.h"
#include "../triton/library.h"
#include "owner_lock.h"
#include "reaper.h"
#include "warm_children.h"

namespace tritonode {

namespace {

// For the private directory and for the shared memory: they may be shared with different sets of other containers.
struct ServerLocks {
  OwnerLock directory;
  OwnerLock sharedMemory;
  void Hold(const StartOptions& options) {
    directory.Hold(options.privateDirectory + "/owner");
    sharedMemory.Hold("/dev/shm/" + options.shmPrefix + "owner");
  }
  void Release() {
    directory.Release();
    sharedMemory.Release();
  }
};

}  // namespace

struct Host::State {
  enum class Phase { kNone, kClaimed, kStarting, kRunning, kStopping };
  std::mutex mutex;
  std::condition_variable changed;
  Phase phase = Phase::kNone;
  // The environment that may call Start while the phase is kClaimed.
  std::shared_ptr<EventQueue> claimant;
  std::vector<std::shared_ptr<EventQueue>> users;
  std::shared_ptr<Server> server;
  // From before the server's first child until after its last.
  std::shared_ptr<ChildMonitor> monitor;
  Reaper reaper;
  ServerLocks locks;
  std::string description;
  uint32_t exitTimeoutSeconds = 30;
  std::atomic<bool> stuck{false};
  // exit() runs: from here on nothing may start or stop.
  bool exiting = false;
  // One for all handlers: each start and each stop has registered one.
  std::optional<std::chrono::steady_clock::time_point> exitDeadline;
};

namespace {

// Triton opens its log without O_CLOEXEC; every process that the host starts would inherit it, and a pipe that strangers
// hold never ends.
void CloseOnExec(const std::string& path) {
  std::error_code error;
  for (std::filesystem::directory_iterator at("/proc/self/fd", error), end; !error && at != end; at.increment(error)) {
    std::error_code gone;
    if (std::filesystem::read_symlink(at->path(), gone) != path) continue;
    const int fd = std::atoi(at->path().filename().c_str());
    fcntl(fd, F_SETFD, fcntl(fd, F_GETFD) | FD_CLOEXEC);
  }
}

// exit() destroys the static objects of Triton's libraries while their threads go on. So nothing may be under way then:
// a stop or a start that runs is waited for, and the children are ended, so that no response comes any more.
// Handlers run last in, first out: registered again before each stop, to run before what Triton made since the start.
void BeforeExit() { std::atexit([] { Host::Get().PrepareForExit(true); }); }

// Triton's own version; empty if its answer has none.
std::string VersionOf(Server& server) {
  std::string metadata;
  if (!server.Metadata(&metadata).ok()) return {};
  constexpr std::string_view kKey = "\"version\":\"";
  const size_t at = metadata.find(kKey);
  if (at == std::string::npos) return {};
  const size_t begin = at + kKey.size();
  return metadata.substr(begin, metadata.find('"', begin) - begin);
}

constexpr std::chrono::seconds kExitWait{4};
// The part of it that is left for what is under way to end after its children were killed.
constexpr std::chrono::seconds kWaitWithoutChildren{1};

}  // namespace

Host& Host::Get() {
  static Host& host = *new Host;
  return host;
}

void Host::PrepareForExit(bool noReturn) {
  State& s = state();
  std::unique_lock<std::mutex> lock(s.mutex);
  s.exiting |= noReturn;
  if (!s.exitDeadline) s.exitDeadline = std::chrono::steady_clock::now() + kExitWait;
  const auto settled = [&] { return s.phase != State::Phase::kStopping && s.phase != State::Phase::kStarting; };
  s.changed.wait_until(lock, *s.exitDeadline - kWaitWithoutChildren, settled);
  WarmChildren::Get().KillAll();
  if (s.monitor != nullptr) s.monitor->EndAll();
  s.changed.wait_until(lock, *s.exitDeadline, settled);
  if (noReturn) KeepTritonsMemory();
}

Host::State& Host::state() {
  // Leaked on purpose: threads of ours and Triton's outlive static destructors.
  static State& state = *new State;
  return state;
}

Status Host::Acquire(const std::shared_ptr<EventQueue>& user, Acquired* acquired) {
  State& s = state();
  std::unique_lock<std::mutex> lock(s.mutex);
  s.changed.wait(lock, [&] { return s.phase == State::Phase::kNone || s.phase == State::Phase::kRunning; });
  if (user->closed() || s.exiting) return {"STATE", "the environment is gone"};
  if (s.phase == State::Phase::kNone) {
    s.phase = State::Phase::kClaimed;
    s.claimant = user;
    acquired->mustStart = true;
    return {};
  }
  const bool first = std::find(s.users.begin(), s.users.end(), user) == s.users.end();
  s.users.push_back(user);
  acquired->description = s.description;
  if (first) s.monitor->Subscribe(user);
  return {};
}

Status Host::Start(const std::shared_ptr<EventQueue>& user, const StartOptions& options) {
  State& s = state();
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    if (s.phase != State::Phase::kClaimed || s.claimant != user) {
      return {"STATE", "start was called without acquiring the server first"};
    }
    s.claimant = nullptr;
    if (s.exiting) {
      s.phase = State::Phase::kNone;
      s.changed.notify_all();
      return {"STATE", "the process ends"};
    }
    s.phase = State::Phase::kStarting;
  }

  std::shared_ptr<ChildMonitor> monitor;
  std::shared_ptr<Server> server;
  Reaper reaper;
  const std::string log = options.privateDirectory + "/log";
  ServerLocks locks;
  locks.Hold(options);
  Status status = reaper.Start(options.privateDirectory, options.shmPrefix);
  if (status.ok()) status = ChildMonitor::Start(log, options.privateDirectory + "/children", &monitor);
  if (status.ok()) {
    monitor->Subscribe(user);
    {
      const std::lock_guard<std::mutex> lock(s.mutex);
      s.monitor = monitor;
    }
    const TritonApi* api = nullptr;
    status = OpenTriton(options.library, options.dependencyDirectory, &api);
    if (status.ok()) {
      ServerOptions server_options = options.server;
      server_options.logFile = log;
      status = Server::Start(*api, server_options, &server);
      CloseOnExec(log);
    }
    // Before any model is loaded, which is when Triton opens its Python backend.
    if (status.ok() && !options.pythonBackend.empty()) {
      std::string summary;
      status = RepairTriton({options.pythonBackend, ImportsOf(options.library), VersionOf(*server), options.repairsOff,
                             options.privateDirectory},
                            &summary);
      if (status.ok()) user->Push(LogLine{"tritonode: " + summary});
      else server->Stop(1);
    }
  }
  if (!status.ok()) {
    if (monitor != nullptr) monitor->Stop();
    reaper.Release(true);
    locks.Release();
  }

  BeforeExit();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (status.ok()) {
    s.phase = State::Phase::kRunning;
    s.server = server;
    s.reaper = reaper;
    s.locks = locks;
    s.description = options.description;
    s.exitTimeoutSeconds = options.server.exitTimeoutSeconds;
    s.users.push_back(user);
    WarmChildren::Get().Open(options.privateDirectory, monitor);
  } else {
    s.phase = State::Phase::kNone;
    s.monitor = nullptr;
  }
  s.changed.notify_all();
  return status;
}

Status Host::Release(const std::shared_ptr<EventQueue>& user, bool* stopped) {
  State& s = state();
  *stopped = false;
  std::shared_ptr<Server> server;
  std::shared_ptr<ChildMonitor> monitor;
  Reaper reaper;
  uint32_t timeout = 0;
  {
    std::unique_lock<std::mutex> lock(s.mutex);
    // A user whose Start is under way is not in yet: wait until it is, or failed.
    s.changed.wait(lock, [&] { return s.phase != State::Phase::kStarting; });
    if (s.claimant == user) {
      s.claimant = nullptr;
      s.phase = State::Phase::kNone;
      s.changed.notify_all();
      return {};
    }
    const auto found = std::find(s.users.begin(), s.users.end(), user);
    if (found == s.users.end()) return {};
    s.users.erase(found);
    if (std::find(s.users.begin(), s.users.end(), user) == s.users.end()) s.monitor->Unsubscribe(user.get());
    if (!s.users.empty() || s.exiting) return {};
    s.phase = State::Phase::kStopping;
    server = std::move(s.server);
    monitor = s.monitor;
    reaper = s.reaper;
    timeout = s.exitTimeoutSeconds;
    s.server = nullptr;
    s.reaper = Reaper();
  }

  BeforeExit();
  // The leaver still wants to read what its server says while it stops.
  if (!user->closed()) monitor->Subscribe(user);
  WarmChildren::Get().Close();
  CancelAll();
  // Requests end through their cancellation as a rule; Triton itself waits for the rest in steps of a second.
  WaitForCalls(2000);
  // No use in waiting long for what never ends.
  const bool stuck = s.stuck.exchange(false);
  Status status = server->Stop(stuck ? std::min(timeout, 1u) : timeout);
  // Expected then: Triton keeps the server, whose threads sleep for ever.
  if (stuck && !status.ok()) status = Status();
  monitor->Stop();
  // In every case: a server left behind may have left children behind.
  reaper.Release(true);
  *stopped = true;

  const std::lock_guard<std::mutex> lock(s.mutex);
  s.locks.Release();
  s.phase = State::Phase::kNone;
  s.monitor = nullptr;
  s.description.clear();
  s.changed.notify_all();
  return status;
}

void Host::ReleaseAll(const std::shared_ptr<EventQueue>& user) {
  State& s = state();
  WarmChildren::Get().ReleaseAll(user);
  for (;;) {
    bool stopped = false;
    Release(user, &stopped);
    const std::lock_guard<std::mutex> lock(s.mutex);
    const bool in = s.claimant == user || std::find(s.users.begin(), s.users.end(), user) != s.users.end();
    if (!in) return;
  }
}

void Host::NoteStuck() { state().stuck = true; }

std::shared_ptr<Server> Host::server() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  return s.server;
}

std::shared_ptr<ChildMonitor> Host::monitor() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  return s.monitor;
}

}  // namespace tritonode
