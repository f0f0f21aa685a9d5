#include "child_waits.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <exception>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "child_takeover.h"
#include "repairs.h"

// The backend's own type, by its name and layout (python_backend r24.10, src/pb_exception.h): libstdc++ compares types of
// different libraries by their names.
namespace triton::backend::python {
struct PythonBackendException : std::exception {
  explicit PythonBackendException(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  std::string message_;
};
}  // namespace triton::backend::python

namespace tritonode {
namespace {

// What a launcher does on the queue of one child: it waits for the first message; then for the answer to the request to
// complete a configuration (without a limit) or to initialize a model (with one); last for the child's end.
struct Child {
  pid_t pid = 0;
  int waits = 0;
  bool isModel = false;
};

struct Waits {
  std::mutex mutex;
  std::map<sem_t*, Child> children;
};

Waits& waits() {
  // Leaked on purpose: Triton's threads outlive static destructors.
  static Waits& waits = *new Waits;
  return waits;
}

thread_local pid_t forked = 0;
thread_local Child lastWaitedFor;

bool IsDead(pid_t child) {
  siginfo_t info{};
  // Not reaped here: Triton waits for its children itself.
  if (waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0) return errno == ECHILD;
  return info.si_pid == child;
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

// Counts a wait without a limit.
Child Count(sem_t* semaphore) {
  Waits& w = waits();
  const std::lock_guard<std::mutex> lock(w.mutex);
  if (forked != 0) {
    w.children[semaphore] = Child{forked};
    forked = 0;
  }
  const auto found = w.children.find(semaphore);
  if (found == w.children.end()) return {};
  found->second.waits++;
  lastWaitedFor = found->second;
  return found->second;
}

}  // namespace

pid_t ForkChild() {
  const pid_t child = ForkOrTake();
  if (child > 0) forked = child;
  return child;
}

int InitSemaphore(sem_t* semaphore, int shared, unsigned value) {
  Waits& w = waits();
  {
    const std::lock_guard<std::mutex> lock(w.mutex);
    w.children.erase(semaphore);
  }
  return sem_init(semaphore, shared, value);
}

int WaitForChild(sem_t* semaphore) {
  const Child child = Count(semaphore);
  if (child.pid == 0 || !IsActive(Repair::kDeadChild)) return sem_wait(semaphore);
  for (;;) {
    const timespec until = SoonFromNow();
    // Asked before the wait, so that a message it sent before it died is taken.
    const bool dead = IsDead(child.pid);
    if (sem_timedwait(semaphore, &until) == 0 || (errno != ETIMEDOUT && errno != EINTR)) return 0;
    if (!dead) continue;
    if (child.waits == 2 && !child.isModel) {
      throw triton::backend::python::PythonBackendException("the Python child that completes the configuration ended");
    }
    return 0;
  }
}

int WaitForChildUntil(sem_t* semaphore, const timespec* until) {
  pid_t child = 0;
  {
    Waits& w = waits();
    const std::lock_guard<std::mutex> lock(w.mutex);
    const auto found = w.children.find(semaphore);
    if (found != w.children.end()) {
      found->second.isModel = true;
      child = found->second.pid;
      lastWaitedFor = found->second;
    }
  }
  int result = sem_timedwait(semaphore, until);
  if (!IsActive(Repair::kSlowChild)) return result;
  constexpr int kPatience = 50;
  for (int i = 0; child != 0 && i < kPatience && result != 0 && errno == ETIMEDOUT && !IsDead(child); ++i) {
    const timespec pause = SoonFromNow();
    result = sem_timedwait(semaphore, &pause);
  }
  // IsDead may have changed it.
  if (result != 0 && errno != EINTR) errno = ETIMEDOUT;
  return result;
}

unsigned SleepUnlessIdle(unsigned seconds) {
  if (IsActive(Repair::kIdleChild) && lastWaitedFor.pid > 0 && !lastWaitedFor.isModel) {
    std::string name;
    std::getline(std::ifstream("/proc/" + std::to_string(lastWaitedFor.pid) + "/comm"), name);
    if (name == kIdleName) return 0;
  }
  return sleep(seconds);
}

}  // namespace tritonode
