#include "child_waits.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <map>
#include <mutex>
#include <thread>

#include "backend_exception.h"
#include "child_takeover.h"
#include "children.h"
#include "dead_owner.h"
#include "lost_replies.h"
#include "repairs.h"

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

constexpr std::chrono::milliseconds kLastMessages{300};
constexpr std::chrono::seconds kWorkLimit{5};

// Counts a wait without a limit.
Child Count(sem_t* semaphore) {
  Waits& w = waits();
  if (forked != 0) NoteChild(semaphore, forked);
  const std::lock_guard<std::mutex> lock(w.mutex);
  if (forked != 0) {
    w.children[semaphore] = Child{forked};
    forked = 0;
  }
  const auto found = w.children.find(semaphore);
  if (found == w.children.end()) return {};
  found->second.waits++;
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
  ForgetAddresses();
  return sem_init(semaphore, shared, value);
}

int WaitForChild(sem_t* semaphore) {
  NoteWork(nullptr);
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

unsigned SleepForHealth(unsigned seconds) {
  const void* memory = LastLocked();
  const pid_t child = IsActive(Repair::kIdleChild) ? ChildAt(memory) : 0;
  if (child == 0) return sleep(seconds);
  // Triton asks only where it ends a child.
  NoteEnd(child);
  using std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kStep{10};
  const auto end = steady_clock::now() + std::chrono::seconds(seconds);
  while (!MayEnd(child) && !IsDead(child) && steady_clock::now() < end) std::this_thread::sleep_for(kStep);
  // It has not answered all messages. Those that it was sent last may still be on their way to their threads.
  if (!MayEnd(child) && IsDead(child)) std::this_thread::sleep_for(kLastMessages);
  // Not for ever: what its threads wait for may be something else.
  const auto limit = steady_clock::now() + kWorkLimit;
  while (IsAtWork(memory) && steady_clock::now() < limit) std::this_thread::sleep_for(kStep);
  return 0;
}

}  // namespace tritonode
