#include "dead_owner.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>

#include "children.h"
#include "lost_replies.h"
#include "repairs.h"
#include "shared_heap.h"

namespace tritonode {
namespace {

thread_local const pthread_mutex_t* lastLocked = nullptr;

// The allocator's lock is the named object "shm_mutex" of its own heap: the name follows it.
bool IsAllocatorLock(const pthread_mutex_t* mutex) {
  constexpr const char kName[] = "shm_mutex";
  return std::memcmp(mutex + 1, kName, sizeof kName) == 0;
}

// A mapping of its own, because the child may have made the file longer than the backend has mapped so far.
bool SealHeapOf(const void* address) {
  const std::string path = SharedFileAt(address);
  const int fd = path.empty() ? -1 : open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat status {};
  bool sealed = false;
  if (fstat(fd, &status) == 0 && status.st_size > 0) {
    const auto bytes = static_cast<size_t>(status.st_size);
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base != MAP_FAILED) {
      sealed = SealSharedHeap(base, bytes);
      munmap(base, bytes);
    }
  }
  close(fd);
  return sealed;
}

int Recover(pthread_mutex_t* mutex, int result) {
  if (result != EOWNERDEAD || !IsActive(Repair::kDeadOwner)) return result;
  const int error = errno;
  result = pthread_mutex_consistent(mutex);
  if (IsAllocatorLock(mutex)) {
    Report(SealHeapOf(mutex) ? "a Python child died inside its shared memory's allocator; what was free there is given up"
                             : "a Python child died inside its shared memory's allocator, whose layout is not known");
  }
  errno = error;
  return result;
}

}  // namespace

int Lock(pthread_mutex_t* mutex) {
  lastLocked = mutex;
  return Recover(mutex, pthread_mutex_lock(mutex));
}

const pthread_mutex_t* LastLocked() { return lastLocked; }

int TryLock(pthread_mutex_t* mutex) { return Recover(mutex, pthread_mutex_trylock(mutex)); }

int TimedLock(pthread_mutex_t* mutex, const timespec* until) {
  const pid_t child = ChildUsing(mutex);
  const bool dead = child != 0 && IsDead(child);
  AssignFactories(child, dead);
  // As if the lock were held: Triton then answers the request that it was about to send.
  if (dead && IsActive(Repair::kDeadChild)) return ETIMEDOUT;
  constexpr time_t kPatienceSeconds = 2;
  const timespec later = {until->tv_sec + (IsActive(Repair::kSlowChild) ? kPatienceSeconds : 0), until->tv_nsec};
  return Recover(mutex, pthread_mutex_timedlock(mutex, &later));
}

int Wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  const bool acknowledgement = IsAcknowledgement(condition, mutex);
  NoteWork(acknowledgement ? mutex : nullptr);
  return Recover(mutex, acknowledgement && IsActive(Repair::kLostReplies) ? WaitForAcknowledgement(condition, mutex)
                                                                          : pthread_cond_wait(condition, mutex));
}

int TimedWait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until) {
  return Recover(mutex, pthread_cond_timedwait(condition, mutex, until));
}

}  // namespace tritonode
