#include "warm_children.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "../common/descriptor.h"
#include "../common/quiet_write.h"
#include "executor.h"

namespace tritonode {
namespace {

// Overwritten with the real arguments (native/warm_child/preload.cc).
constexpr size_t kRoomForArguments = 4096;
constexpr size_t kArguments = 10;
constexpr std::chrono::milliseconds kLook{500};

// A pipe. The descriptor of the child's end is above the numbers that dup2 overwrites in the child.
Status MakePipe(bool childReads, Descriptor* ours, Descriptor* theirs) {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return SystemError("pipe2");
  *ours = Descriptor(ends[childReads ? 1 : 0]);
  const Descriptor low(ends[childReads ? 0 : 1]);
  *theirs = Descriptor(fcntl(low.get(), F_DUPFD_CLOEXEC, 10));
  if (theirs->get() < 0) return SystemError("fcntl");
  return {};
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// `<repository>/<model>/<version>/model.py`
std::string ModelOf(const std::string& path) {
  std::string folder = path;
  for (int i = 0; i < 2; ++i) folder.resize(std::min(folder.size(), folder.rfind('/')));
  return folder.substr(folder.rfind('/') + 1);
}

std::string Message(const ChildCommand& command) {
  std::string message(sizeof(uint32_t), '\0');
  message += command.directory + '\0';
  for (const std::string& argument : command.arguments) message += argument + '\0';
  const uint32_t size = static_cast<uint32_t>(message.size() - sizeof(uint32_t));
  std::memcpy(message.data(), &size, sizeof size);
  return message;
}

}  // namespace

struct WarmChildren::Child {
  enum class State { kStarting, kReady, kTaken, kEnded };
  State state = State::kStarting;
  ProcessHandle process;
  pid_t pid = 0;
  // Its pipes: for the command, and for its report.
  Descriptor command;
  Descriptor report;
  std::vector<std::string> environment;
  // Why it ended.
  std::string reason;

  bool Waits() const { return state == State::kStarting || state == State::kReady; }
};

WarmChildren& WarmChildren::Get() {
  // Leaked on purpose: threads of ours outlive static destructors.
  static WarmChildren& children = *new WarmChildren;
  return children;
}

void WarmChildren::Open(const std::string& privateDirectory, const std::shared_ptr<ChildMonitor>& monitor) {
  const std::lock_guard<std::mutex> lock(mutex_);
  directory_ = privateDirectory;
  monitor_ = monitor;
  open_ = true;
}

void WarmChildren::Close() {
  std::unique_lock<std::mutex> lock(mutex_);
  open_ = false;
  for (auto& [name, key] : keys_) key.holders.clear();
  EndUnheld();
  changed_.wait(lock, [this] { return following_ == 0; });
  monitor_ = nullptr;
}

void WarmChildren::KillAll() {
  const std::lock_guard<std::mutex> lock(mutex_);
  open_ = false;
  for (auto& [name, key] : keys_) {
    if (key.child != nullptr && key.child->Waits()) key.child->process.Kill();
  }
}

void WarmChildren::Hold(const std::shared_ptr<EventQueue>& user, const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (open_ && !user->closed()) keys_[name].holders.push_back(user);
}

Status WarmChildren::Start(const std::shared_ptr<EventQueue>& user, const std::string& name,
                           std::vector<std::string> environment, int* pid) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!open_) return {"STATE", "the server is not running"};
  const auto found = keys_.find(name);
  if (found == keys_.end()) return {"STATE", "nobody wants a warm child of " + name};
  if (found->second.child == nullptr) {
    const Status status = Spawn(name, std::move(environment), &found->second.child);
    if (!status.ok()) return status;
  }
  const std::shared_ptr<Child> child = found->second.child;
  while (child->state == Child::State::kStarting && !user->closed()) changed_.wait_for(lock, kLook);
  *pid = child->pid;
  if (child->state == Child::State::kReady || child->state == Child::State::kTaken) return {};
  if (keys_.count(name) == 0 || user->closed()) return {"STATE", "the warm child is not wanted any more"};
  return {"CHILD", child->reason};
}

Status WarmChildren::Spawn(const std::string& name, std::vector<std::string> environment,
                           std::shared_ptr<Child>* child) {
  auto made = std::make_shared<Child>();
  Descriptor theirCommand;
  Descriptor theirReport;
  Status status = MakePipe(true, &made->command, &theirCommand);
  if (status.ok()) status = MakePipe(false, &made->report, &theirReport);
  if (!status.ok()) return status;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirCommand.get(), 3);
  posix_spawn_file_actions_adddup2(&actions, theirReport.get(), 4);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  // Triton starts its children through bash, which adds its own variables to the environment; this does the same.
  std::string shell = "bash";
  std::string flag = "-c";
  std::string script = " exec " + directory_ + "/backends/python/triton_python_backend_stub --warm " + name + " " +
                       std::string(kRoomForArguments, '-');
  std::array<char*, 4> arguments = {shell.data(), flag.data(), script.data(), nullptr};
  std::vector<char*> variables;
  for (std::string& variable : environment) variables.push_back(variable.data());
  variables.push_back(nullptr);
  const int error = posix_spawnp(&made->pid, "bash", &actions, &attributes, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    errno = error;
    return SystemError("cannot start bash");
  }
  made->process.Open(made->pid);
  std::sort(environment.begin(), environment.end());
  made->environment = std::move(environment);
  following_++;
  if (!RunBlocking([this, made] { Follow(made); })) {
    following_--;
    made->process.Kill();
    waitpid(made->pid, nullptr, 0);
    return {"SYSTEM", "cannot start a thread"};
  }
  *child = std::move(made);
  return {};
}

// Reads the child's report until its end, and reaps a child that was not used.
void WarmChildren::Follow(const std::shared_ptr<Child>& child) {
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t size = read(child->report.get(), buffer.data(), buffer.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) break;
    text.append(buffer.data(), static_cast<size_t>(size));
    if (text != "ready\n") continue;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (child->state == Child::State::kStarting) child->state = Child::State::kReady;
    changed_.notify_all();
  }
  bool taken = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    taken = child->state == Child::State::kTaken;
  }
  int status = 0;
  // Triton reaps the others. A child that has closed its report before it was used is about to end.
  while (!taken && waitpid(child->pid, &status, 0) < 0 && errno == EINTR) {
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  child->command.Close();
  child->report.Close();
  if (!taken) {
    child->state = Child::State::kEnded;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    child->reason = !text.empty() && text != "ready" ? text
                    : WIFSIGNALED(status)            ? "signal " + std::to_string(WTERMSIG(status))
                                                     : "exit code " + std::to_string(WEXITSTATUS(status));
    for (auto& [name, key] : keys_) {
      if (key.child == child) key.child = nullptr;
    }
  }
  following_--;
  changed_.notify_all();
}

void WarmChildren::WaitForEnd(const std::shared_ptr<EventQueue>& user, const std::string& name) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto ended = [&] {
    const auto found = keys_.find(name);
    return user->closed() || found == keys_.end() || found->second.child == nullptr;
  };
  while (!ended()) changed_.wait_for(lock, kLook);
}

void WarmChildren::Release(const std::shared_ptr<EventQueue>& user, const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = keys_.find(name);
  if (found == keys_.end()) return;
  auto& holders = found->second.holders;
  const auto held = std::find(holders.begin(), holders.end(), user);
  if (held != holders.end()) holders.erase(held);
  EndUnheld();
}

void WarmChildren::ReleaseAll(const std::shared_ptr<EventQueue>& user) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [name, key] : keys_) std::erase(key.holders, user);
  EndUnheld();
}

void WarmChildren::EndUnheld() {
  for (auto at = keys_.begin(); at != keys_.end();) {
    if (!at->second.holders.empty()) {
      ++at;
      continue;
    }
    if (at->second.child != nullptr && at->second.child->Waits()) at->second.child->process.Kill();
    at = keys_.erase(at);
  }
  changed_.notify_all();
}

bool WarmChildren::HasAny() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return open_ && std::any_of(keys_.begin(), keys_.end(), [](const auto& each) { return each.second.child != nullptr; });
}

bool WarmChildren::Fits(const Child& child, const std::string& name, const ChildCommand& command) const {
  const std::vector<std::string>& arguments = command.arguments;
  if (!child.Waits() || arguments.size() != kArguments) return false;
  const std::string& path = arguments[1];
  const std::string model = ModelOf(path);
  // The child that only completes the configuration has the model's name.
  if (arguments[8] == model || arguments[9] != directory_ + "/backends/vllm") return false;
  // A model with its own model.py belongs to another backend.
  if (access(path.c_str(), F_OK) == 0) return false;
  return child.environment == command.environment && ReadFile(name) == ReadFile(directory_ + "/environment/" + model);
}

pid_t WarmChildren::Take(const ChildCommand& command) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!open_) return 0;
  for (auto& [name, key] : keys_) {
    const std::shared_ptr<Child> child = key.child;
    if (child == nullptr || !Fits(*child, name, command) || child->process.HasEnded()) continue;
    if (!WriteQuietly(child->command.get(), Message(command))) continue;
    child->state = Child::State::kTaken;
    child->command.Close();
    key.child = nullptr;
    std::string text;
    for (size_t i = 1; i < command.arguments.size(); ++i) text += command.arguments[i] + "\n";
    if (monitor_ != nullptr) monitor_->Announce(child->pid, text);
    changed_.notify_all();
    return child->pid;
  }
  return 0;
}

}  // namespace tritonode
