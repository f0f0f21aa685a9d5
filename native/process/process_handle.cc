#include "process_handle.h"

#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <string>
#include <utility>

namespace tritonode {
namespace {

// glibc 2.36 declares these two; older ones have only the system calls (Linux 5.3 and 5.1).
int OpenPidfd(int pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }
int SignalPidfd(int fd, int signal) {
  return static_cast<int>(syscall(SYS_pidfd_send_signal, fd, signal, nullptr, 0));
}

struct Stat {
  char state = 0;
  unsigned long long started = 0;
};

// Zeros if /proc does not tell (no such process, no descriptor left, hidepid).
Stat ReadStat(int pid) {
  std::FILE* file = std::fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "re");
  if (file == nullptr) return {};
  std::array<char, 1024> buffer{};
  const std::string line(buffer.data(), std::fread(buffer.data(), 1, buffer.size(), file));
  std::fclose(file);
  // The name in parentheses may hold anything, so the fields are counted from the last one: state is the 3rd of all and
  // the start time the 22nd (proc_pid_stat(5)).
  const size_t end = line.rfind(')');
  if (end == std::string::npos) return {};
  std::istringstream fields(line.substr(end + 1));
  Stat stat;
  fields >> stat.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> stat.started;
  return stat;
}

}  // namespace

ProcessHandle::~ProcessHandle() {
  if (fd_ >= 0) close(fd_);
}

ProcessHandle::ProcessHandle(ProcessHandle&& other) noexcept
    : pid_(other.pid_), fd_(std::exchange(other.fd_, -1)), started_(other.started_) {}

ProcessHandle& ProcessHandle::operator=(ProcessHandle&& other) noexcept {
  pid_ = other.pid_;
  started_ = other.started_;
  std::swap(fd_, other.fd_);
  return *this;
}

bool ProcessHandle::Open(int pid) {
  pid_ = pid;
  fd_ = OpenPidfd(pid);
  if (fd_ >= 0) return true;
  if (errno == ESRCH) return false;
  started_ = ReadStat(pid).started;
  return !HasEndedByNumber();
}

bool ProcessHandle::HasEnded() {
  if (fd_ < 0) return HasEndedByNumber();
  pollfd ended{fd_, POLLIN, 0};
  return poll(&ended, 1, 0) > 0;
}

bool ProcessHandle::HasEndedByNumber() const {
  siginfo_t info{};
  // A child of this process. Not reaped here: Triton waits for its children itself.
  if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
    if (info.si_pid == pid_) return true;
  } else if (kill(pid_, 0) != 0 && errno == ESRCH) {
    return true;
  }
  const Stat now = ReadStat(pid_);
  return now.state == 'Z' || now.state == 'X' || (started_ != 0 && now.started != 0 && now.started != started_);
}

bool ProcessHandle::Signal(int signal) {
  if (fd_ >= 0 && SignalPidfd(fd_, signal) == 0) return true;
  if (fd_ >= 0 && errno == ESRCH) return false;
  return !HasEnded() && kill(pid_, signal) == 0;
}

void ProcessHandle::Kill() {
  if (!Signal(0)) return;
  // Its group is found by the number alone, which is still this process's. Never 1 (that is everybody), never our own.
  if (pid_ > 1 && pid_ != getpgrp()) kill(-pid_, SIGKILL);
  Signal(SIGKILL);
}

}  // namespace tritonode
