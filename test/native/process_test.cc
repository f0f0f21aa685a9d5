// What happens around the process: its end, its children, memory and descriptors that run out. One case for each
// argument, as in core_test.cc.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../native/triton/call.h"
#include "../../native/process/executor.h"
#include "../../native/process/host.h"
#include "../../native/process/owner_lock.h"
#include "check.h"
#include "support.h"

using namespace tritonode;

namespace {

// So many of this thread's next allocations fail.
thread_local int failing = 0;

}  // namespace

// Not inlined: GCC then takes malloc and free in them for a mismatch.
#define NOT_INLINED __attribute__((noinline))
NOT_INLINED void* operator new(size_t size) {
  if (failing > 0) {
    --failing;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
NOT_INLINED void operator delete(void* memory) noexcept { std::free(memory); }
NOT_INLINED void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

// A child that only waits to be killed.
pid_t Victim() {
  const pid_t pid = fork();
  if (pid == 0) {
    // Nor does it outlive a test that fails.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pause();
    _exit(0);
  }
  return pid;
}

bool IsKilled(pid_t pid) {
  int status = 0;
  return Eventually([&] { return waitpid(pid, &status, WNOHANG) == pid; }) && WIFSIGNALED(status) &&
         WTERMSIG(status) == SIGKILL;
}

void Announce(const std::string& directory, pid_t pid) {
  const std::string name = std::to_string(pid);
  std::ofstream(directory + "/children/." + name) << "model\nregion\n";
  fs::rename(directory + "/children/." + name, directory + "/children/" + name);
}

// Runs `body` in a process of its own and then exit(); it must be through soon, and have killed `child`.
void CheckExit(pid_t child, const std::function<void(const std::shared_ptr<EventQueue>&)>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    // For ever: its threads run while exit() does.
    static auto& consumer = *new Consumer;
    // Each start and each stop wants to be asked before the end.
    for (int i = 0; i < 4; ++i) {
      Acquired acquired;
      bool stopped = false;
      CHECK(Host::Get().Acquire(consumer.queue, &acquired).ok());
      CHECK(Host::Get().Start(consumer.queue, HostOptions()).ok());
      CHECK(Host::Get().Release(consumer.queue, &stopped).ok() && stopped);
    }
    Acquired acquired;
    CHECK(Host::Get().Acquire(consumer.queue, &acquired).ok() && acquired.mustStart);
    body(consumer.queue);
    std::exit(0);
  }
  CHECK(IsKilled(child));
  int status = 0;
  CHECK(Eventually([&] { return waitpid(pid, &status, WNOHANG) == pid; }));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A stop that hangs inside Triton holds up exit() once, not once for each handler, and its children do not outlive it.
void ExitWhileStopping() {
  const pid_t child = Victim();
  StartOptions options = HostOptions();
  options.server.exitTimeoutSeconds = 60;
  CheckExit(child, [&](const auto& queue) {
    Host& host = Host::Get();
    CHECK(host.Start(queue, options).ok());
    Announce(options.privateDirectory, child);
    CHECK(Eventually([&] { return host.monitor()->Children().size() == 1; }));
    CHECK(RunBlocking([server = host.server()] { server->LoadModel("stuck", "", {}); }));
    CHECK(Eventually([] { return Live("hanging loads") == 1; }));
    CHECK(RunBlocking([&host, queue] {
      bool stopped = false;
      host.Release(queue, &stopped);
    }));
    CHECK(Eventually([&] { return host.server() == nullptr; }));
  });
}

void ExitWhileStarting() {
  const pid_t child = Victim();
  StartOptions options = HostOptions();
  options.server.backendDirectory = "/stuck";
  CheckExit(child, [&](const auto& queue) {
    CHECK(RunBlocking([queue, options] { Host::Get().Start(queue, options); }));
    CHECK(Eventually([] { return Live("hanging starts") == 1; }));
    Announce(options.privateDirectory, child);
  });
}

// From now on the system call fails in this process and what it starts.
void Forbid(long call, int error) {
  const auto number = static_cast<uint32_t>(call);
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{4, filter};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

// Children are reported and can be ended; `sibling` is watched without being a child of this process.
void CheckWatching(pid_t sibling) {
  const std::string directory = MakeDirectory();
  std::shared_ptr<ChildMonitor> monitor;
  CHECK(ChildMonitor::Start(directory + "/log", directory + "/children", &monitor).ok());
  {
    Consumer consumer;
    monitor->Subscribe(consumer.queue);
    size_t seen = 0;
    for (const pid_t pid : {Victim(), sibling}) {
      Announce(directory, pid);
      CHECK(Eventually([&] { return consumer.Changes().size() == seen + 1; }));
      // Long enough to be taken for dead.
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      CHECK(consumer.Changes().size() == seen + 1 && consumer.Changes()[seen].running);
      CHECK(consumer.Changes()[seen].pid == pid && consumer.Changes()[seen].arguments == "model\nregion\n");
      CHECK(monitor->Children() == std::vector<int>{pid} && monitor->Watch(pid, ""));
      monitor->End(pid);
      CHECK(Eventually([&] { return consumer.Changes().size() == seen + 2; }));
      CHECK(consumer.Changes()[seen + 1].pid == pid && !consumer.Changes()[seen + 1].running);
      if (pid != sibling) CHECK(IsKilled(pid) && !monitor->Watch(pid, ""));
      seen += 2;
    }
    // Whatever is announced once all are to be ended is ended, too.
    monitor->EndAll();
    const pid_t late = Victim();
    Announce(directory, late);
    CHECK(IsKilled(late));
    monitor->Unsubscribe(consumer.queue.get());
  }
  monitor->Stop();
  fs::remove_all(directory);
}

void Watching() {
  for (const int error : {0, ENOSYS, EPERM}) {
    const pid_t sibling = Victim();
    const pid_t pid = fork();
    if (pid == 0) {
      if (error != 0) Forbid(SYS_pidfd_open, error);
      CheckWatching(sibling);
      _exit(0);
    }
    CHECK(IsKilled(sibling));
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  }
}

void LimitDescriptors(rlim_t limit) {
  rlimit now{};
  CHECK(getrlimit(RLIMIT_NOFILE, &now) == 0);
  now.rlim_cur = limit == 0 ? now.rlim_max : limit;
  CHECK(setrlimit(RLIMIT_NOFILE, &now) == 0);
}

// No descriptor is left: a child that lives is not taken for dead, and an announcement is read as soon as it can be.
void WatchingWithoutDescriptors() {
  const std::string directory = MakeDirectory();
  const pid_t watched = Victim();
  const pid_t announced = fork();
  if (announced == 0) {
    while (!fs::exists(directory + "/go")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    Announce(directory, getpid());
    fs::create_directory(directory + "/done");
    pause();
    _exit(0);
  }
  std::shared_ptr<ChildMonitor> monitor;
  CHECK(ChildMonitor::Start(directory + "/log", directory + "/children", &monitor).ok());
  {
    Consumer consumer;
    monitor->Subscribe(consumer.queue);
    LimitDescriptors(3);
    CHECK(dup(0) == -1 && errno == EMFILE);
    CHECK(monitor->Watch(watched, "watched"));
    fs::create_directory(directory + "/go");
    CHECK(Eventually([&] { return fs::exists(directory + "/done"); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(consumer.Changes().size() == 1 && consumer.Changes()[0].running);
    monitor->End(watched);
    CHECK(Eventually([&] { return consumer.Changes().size() == 2 && !consumer.Changes()[1].running; }));
    CHECK(IsKilled(watched));
    LimitDescriptors(0);
    CHECK(Eventually([&] { return consumer.Changes().size() == 3; }));
    CHECK(consumer.Changes()[2].running && consumer.Changes()[2].arguments == "model\nregion\n");
    monitor->End(announced);
    CHECK(Eventually([&] { return consumer.Changes().size() == 4 && !consumer.Changes()[3].running; }));
    CHECK(IsKilled(announced));
    monitor->Unsubscribe(consumer.queue.get());
  }
  monitor->Stop();
  fs::remove_all(directory);
}

// Ending a child ends its process group.
void EndingGroups() {
  const std::string directory = MakeDirectory();
  std::shared_ptr<ChildMonitor> monitor;
  CHECK(ChildMonitor::Start(directory + "/log", directory + "/children", &monitor).ok());
  CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  const pid_t leader = fork();
  if (leader == 0) {
    setpgid(0, 0);
    const pid_t member = fork();
    if (member != 0) fs::create_directory(directory + "/" + std::to_string(member));
    pause();
    _exit(0);
  }
  const auto member = [&] {
    for (const auto& entry : fs::directory_iterator(directory)) {
      if (const int pid = std::atoi(entry.path().filename().c_str())) return pid;
    }
    return 0;
  };
  CHECK(Eventually([&] { return member() != 0; }));
  CHECK(monitor->Watch(leader, ""));
  monitor->End(leader);
  CHECK(IsKilled(leader) && IsKilled(member()));
  monitor->Stop();
  fs::remove_all(directory);
}

const TritonApi* real = nullptr;

TRITONSERVER_Error* DeleteAndFail(TRITONSERVER_InferenceResponse* response) {
  TRITONSERVER_Error* error = real->InferenceResponseDelete(response);
  failing = 3;
  return error;
}

TRITONSERVER_Error* ReadAndFail(TRITONSERVER_InferenceResponse* response) {
  failing = 1;
  return real->InferenceResponseError(response);
}

// Memory runs out on Triton's thread: the stream ends all the same, and so does nothing else.
void WithoutMemory() {
  CHECK(OpenTriton(StandIn(), "", &real).ok());
  TritonApi queueing = *real;
  queueing.InferenceResponseDelete = DeleteAndFail;
  TritonApi reading = *real;
  reading.InferenceResponseError = ReadAndFail;
  for (const TritonApi* api : {&queueing, &reading}) {
    std::shared_ptr<Server> server;
    ServerOptions options;
    options.backendDirectory = "/none";
    CHECK(Server::Start(*api, options, &server).ok());
    {
      Consumer consumer;
      const uint64_t call = Send(server, consumer, "echo", "a text");
      CHECK(Eventually([&] { return consumer.Ended(call); }));
      const std::vector<Response> all = consumer.Of(call);
      CHECK(all.size() == 1);
      if (api == &queueing) CHECK(all[0].status.ok() && all[0].outputs[0].name == "a text");
      else CHECK(all[0].status.code() == "UNAVAILABLE" && all[0].status.message() == "out of memory");
      CHECK(Eventually([] { return LiveCalls() == 0 && NothingLives(); }));
    }
    CHECK(server->Stop(1).ok());
  }
}

// What throws inside a call of the server is a status, and the server can be stopped.
void Throwing() {
  const std::shared_ptr<Server> server = StartServer();
  Status status = server->Use([](TRITONSERVER_Server*) -> Status { throw std::bad_alloc(); });
  CHECK(status.code() == "UNAVAILABLE" && status.message() == "out of memory");
  status = server->Use([](TRITONSERVER_Server*) -> Status { throw std::runtime_error("no"); });
  CHECK(status.code() == "INTERNAL" && status.message() == "no");
  CHECK(server->Stop(1).ok());
  // A job that throws ends neither the process nor the thread that later jobs get.
  CHECK(RunBlocking([] { throw std::runtime_error("no"); }));
  std::atomic<bool> ran{false};
  CHECK(RunBlocking([&] { ran = true; }));
  CHECK(Eventually([&] { return ran.load(); }));
}

// No memory or no thread for a job: the caller learns that it does not run.
void WithoutThreads() {
  std::atomic<int> ran{0};
  const std::function<void()> job = [&ran] { ++ran; };
  std::function<void()> copy = job;
  failing = 1;
  CHECK(!RunBlocking(std::move(copy)));
  CHECK(failing == 0);
  // In a process that does not exit(): what looks for leaks then wants to clone itself.
  const pid_t pid = fork();
  if (pid == 0) {
    Forbid(SYS_clone, EAGAIN);
    Forbid(SYS_clone3, EAGAIN);
    CHECK(!RunBlocking(job));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(ran == 0);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

// A lock tells whether its owner lives, until the owner has ended in whichever way.
void OwnerLocks() {
  const std::string directory = MakeDirectory();
  const std::string path = directory + "/owner";
  CHECK(OwnerLock::Look(path) == OwnerLock::Owner::kUnknown);
  const pid_t pid = fork();
  if (pid == 0) {
    OwnerLock lock;
    lock.Hold(path);
    pause();
    _exit(0);
  }
  CHECK(Eventually([&] { return OwnerLock::Look(path) == OwnerLock::Owner::kLives; }));
  kill(pid, SIGKILL);
  CHECK(IsKilled(pid));
  CHECK(OwnerLock::Look(path) == OwnerLock::Owner::kGone);
  OwnerLock lock;
  lock.Hold(path);
  CHECK(OwnerLock::Look(path) == OwnerLock::Owner::kLives);
  lock.Release();
  CHECK(OwnerLock::Look(path) == OwnerLock::Owner::kGone);
  OwnerLock nowhere;
  nowhere.Hold(directory + "/missing/owner");
  CHECK(OwnerLock::Look(directory + "/missing/owner") == OwnerLock::Owner::kUnknown);
  fs::remove_all(directory);
}

const Cases cases = {
    {"owner_locks", OwnerLocks},
    {"watching", Watching},
    {"watching_without_descriptors", WatchingWithoutDescriptors},
    {"ending_groups", EndingGroups},
    {"without_memory", WithoutMemory},
    {"throwing", Throwing},
    {"without_threads", WithoutThreads},
    {"exit_while_stopping", ExitWhileStopping},
    {"exit_while_starting", ExitWhileStarting},
};

}  // namespace

int main(int argc, char** argv) { return RunCase(argc, argv, cases); }
