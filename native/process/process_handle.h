// A process that is watched and signalled from outside. A pidfd holds on to exactly this process; where the system gives
// none (EMFILE, ENOSYS before Linux 5.3, EPERM under a seccomp profile) its number and its start time have to do.
#pragma once

namespace tritonode {

class ProcessHandle {
 public:
  ProcessHandle() = default;
  ~ProcessHandle();
  ProcessHandle(ProcessHandle&& other) noexcept;
  ProcessHandle& operator=(ProcessHandle&& other) noexcept;

  // False if there is no such process.
  bool Open(int pid);
  // Readable once the process has ended; -1 if there is no pidfd, and then somebody has to ask HasEnded from time to time.
  int fd() const { return fd_; }
  // A zombie has ended.
  bool HasEnded();
  // SIGKILL for the process and, if it leads a process group, for the group.
  void Kill();

 private:
  bool HasEndedByNumber() const;
  bool Signal(int signal);

  int pid_ = 0;
  int fd_ = -1;
  // Clock ticks since boot, from /proc; 0 if unknown.
  unsigned long long started_ = 0;
};

}  // namespace tritonode
