// What the repairs of Triton's Python backend do for a child that is dead or has nothing left to do: the wait for its
// health, the responses it owes, the acknowledgements it owes. Each case is a process of its own.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <exception>
#include <map>
#include <string>
#include <thread>

#include "../../native/python_backend/backend_exception.h"
#include "../../native/python_backend/child_waits.h"
#include "../../native/python_backend/children.h"
#include "../../native/python_backend/dead_owner.h"
#include "../../native/python_backend/lost_replies.h"
#include "../../native/python_backend/repairs.h"
#include "check.h"

using namespace tritonode;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

void Apply() {
  std::string summary;
  ImportTable server;
  CHECK(RepairTriton({directoryOfLibraries + "/libvictim.so", &server, "2.51.0", {}, ""}, &summary).ok());
  CHECK(IsActive(Repair::kLostReplies) && IsActive(Repair::kIdleChild));
}

// As the backend lays out a message; the flag says whose turn it is.
struct Message {
  pthread_mutex_t mutex;
  pthread_cond_t condition;
  bool isChildsTurn;
};

// A child with a file in /dev/shm that both have mapped; killed at the end.
class Child {
 public:
  Child() {
    static std::atomic<int> count{0};
    name_ = "/tritonode_test_" + std::to_string(getpid()) + "_" + std::to_string(count++);
    fd_ = shm_open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd_ >= 0 && ftruncate(fd_, 4096) == 0);
    message_ = static_cast<Message*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
    pthread_mutexattr_t mutex;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&message_->mutex, &mutex);
    pthread_condattr_t condition;
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&message_->condition, &condition);
    message_->isChildsTurn = true;
    pid_ = fork();
    if (pid_ == 0) {
      pause();
      _exit(0);
    }
    NoteChild(message_, pid_);
  }
  ~Child() {
    Kill();
    waitpid(pid_, nullptr, 0);
    munmap(message_, 4096);
    close(fd_);
    shm_unlink(name_.c_str());
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void Kill() { kill(pid_, SIGKILL); }
  pid_t pid() const { return pid_; }
  Message& message() { return *message_; }

  // Waits for the acknowledgement as the backend does; how long that took.
  milliseconds Acknowledged() {
    const auto begin = steady_clock::now();
    CHECK(Lock(&message_->mutex) == 0);
    while (message_->isChildsTurn) CHECK(Wait(&message_->condition, &message_->mutex) == 0);
    pthread_mutex_unlock(&message_->mutex);
    return std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin);
  }

  // How long the backend sleeps to see whether it is healthy.
  milliseconds Slept() {
    CHECK(Lock(&message_->mutex) == 0);
    pthread_mutex_unlock(&message_->mutex);
    const auto begin = steady_clock::now();
    CHECK(SleepForHealth(1) == 0);
    return std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin);
  }

 private:
  std::string name_;
  int fd_ = -1;
  pid_t pid_ = 0;
  Message* message_ = nullptr;
};

// A child that lives gets its second; one that may be ended, or is dead, does not. What was noted of another child with the
// same number does not count.
void SleepingForHealth() {
  Apply();
  Child child;
  CHECK(ChildAt(&child.message().isChildsTurn) == child.pid() && ChildAt(&directoryOfLibraries) == 0);
  CHECK(child.Slept() >= milliseconds(1000));
  AllowEnd(child.pid());
  CHECK(child.Slept() < milliseconds(500));
  NoteChild(&child.message(), child.pid());
  CHECK(child.Slept() >= milliseconds(1000));
  child.Kill();
  CHECK(child.Slept() < milliseconds(900));
}

// Nor is its memory taken away while a thread of the backend works on one of its messages.
void SleepingForWork() {
  Apply();
  Child child;
  Child other;
  std::atomic<int> step{0};
  std::thread worker([&] {
    child.Acknowledged();
    step = 1;
    while (step != 2) std::this_thread::sleep_for(milliseconds(1));
    // Waits for its next task, as the backend's threads do.
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    std::thread caller([&] {
      std::this_thread::sleep_for(milliseconds(50));
      pthread_mutex_lock(&mutex);
      pthread_cond_signal(&condition);
      pthread_mutex_unlock(&mutex);
    });
    pthread_mutex_lock(&mutex);
    Wait(&condition, &mutex);
    pthread_mutex_unlock(&mutex);
    caller.join();
    step = 3;
    while (step != 4) std::this_thread::sleep_for(milliseconds(1));
  });
  child.Kill();
  while (step != 1) std::this_thread::sleep_for(milliseconds(1));
  CHECK(IsAtWork(&child.message()) && !IsAtWork(&other.message()));
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(1200));
    step = 2;
  });
  CHECK(child.Slept() >= milliseconds(1000));
  CHECK(!IsAtWork(&child.message()));
  later.join();
  while (step != 3) std::this_thread::sleep_for(milliseconds(1));
  step = 4;
  worker.join();
}

// The wait for an acknowledgement ends with the child, and not before.
void Acknowledging() {
  Apply();
  Child child;
  std::thread answer([&] {
    std::this_thread::sleep_for(milliseconds(700));
    pthread_mutex_lock(&child.message().mutex);
    child.message().isChildsTurn = false;
    pthread_cond_signal(&child.message().condition);
    pthread_mutex_unlock(&child.message().mutex);
  });
  CHECK(child.Acknowledged() >= milliseconds(600));
  answer.join();
  child.message().isChildsTurn = true;
  std::thread killer([&] {
    std::this_thread::sleep_for(milliseconds(500));
    child.Kill();
  });
  const milliseconds took = child.Acknowledged();
  CHECK(took >= milliseconds(400) && took < milliseconds(5000));
  killer.join();
}

// The factories of a dead child's requests are deleted; what the child sent before reaches no other factory.
void Factories() {
  Apply();
  void* library = dlopen((directoryOfLibraries + "/libfactories.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  CHECK(library != nullptr);
  const auto live = reinterpret_cast<int (*)()>(dlsym(library, "LiveTritonFactories"));
  const auto used = reinterpret_cast<int (*)()>(dlsym(library, "UsedTritonFactories"));
  char requests[2];
  const auto make = [&](int at) {
    TRITONBACKEND_ResponseFactory* factory = nullptr;
    CHECK(NewFactory(&factory, reinterpret_cast<TRITONBACKEND_Request*>(&requests[at])) == nullptr);
    CHECK(factory != nullptr);
    return factory;
  };
  const auto drop = [&](int at) { DropFactory(reinterpret_cast<TRITONSERVER_InferenceRequest*>(&requests[at])); };
  auto* first = make(0);
  auto* second = make(1);
  CHECK(live() == 2 && LiveFactories() == 2 && first != second);
  TRITONBACKEND_Response* response = nullptr;
  bool cancelled = true;
  CHECK(SendFactoryFlags(first, 0) == nullptr && NewResponseFromFactory(&response, first) == nullptr && used() == 2);
  CHECK(IsFactoryCancelled(first, &cancelled) == nullptr && !cancelled);

  drop(0);
  CHECK(live() == 1 && LiveFactories() == 1);
  CHECK(SendFactoryFlags(first, 1) == nullptr && used() == 2);
  CHECK(IsFactoryCancelled(first, &cancelled) == nullptr && cancelled);
  bool thrown = false;
  try {
    NewResponseFromFactory(&response, first);
  } catch (const triton::backend::python::PythonBackendException&) {
    thrown = true;
  }
  CHECK(thrown && used() == 2);
  // Another request at the same place gets another number; the first one's number is not used again.
  auto* third = make(0);
  CHECK(third != first && DeleteFactory(first) == nullptr && live() == 2);
  CHECK(DeleteFactory(second) == nullptr && DeleteFactory(third) == nullptr && live() == 0 && LiveFactories() == 0);
  drop(0);
  CHECK(live() == 0);

  // A request whose child is dead is not sent, and neither that nor what was sent before keeps its factory.
  Child child;
  Child other;
  const auto send = [&](Child& to, bool sent) {
    timespec until{};
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    CHECK(TimedLock(&to.message().mutex, &until) == (sent ? 0 : ETIMEDOUT));
    if (sent) pthread_mutex_unlock(&to.message().mutex);
  };
  auto* owed = make(0);
  send(child, true);
  make(1);
  send(other, true);
  child.Kill();
  while (!IsDead(child.pid())) std::this_thread::sleep_for(milliseconds(1));
  make(0);
  send(child, false);
  CHECK(live() == 2);
  DropFactoriesOf(child.pid());
  CHECK(live() == 1 && SendFactoryFlags(owed, 0) == nullptr);
  send(other, true);
  DropFactoriesOf(other.pid());
  CHECK(live() == 0 && LiveFactories() == 0);
  CHECK(!EndHasBegun(child.pid()) && child.Slept() < milliseconds(900) && EndHasBegun(child.pid()));

  // While a thread still sends what the child said last.
  for (int round = 0; round < 200; ++round) {
    auto* factory = make(0);
    std::thread sender([&] {
      for (int i = 0; i < 20; ++i) SendFactoryFlags(factory, 0);
    });
    drop(0);
    sender.join();
  }
  CHECK(live() == 0 && LiveFactories() == 0);
}

const Cases cases = {
    {"sleeping_for_health", SleepingForHealth},
    {"sleeping_for_work", SleepingForWork},
    {"acknowledging", Acknowledging},
    {"factories", Factories},
};

}  // namespace

int main(int argc, char** argv) { return RunCase(argc, argv, cases); }
