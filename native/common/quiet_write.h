// Writes to a pipe whose reader may be gone.
#pragma once

#include <csignal>
#include <cerrno>
#include <ctime>
#include <string_view>
#include <unistd.h>

namespace tritonode {

// Writes all of it. False where that is not possible; errno is EPIPE without a reader. Node ignores SIGPIPE; a host that
// does not gets no signal either, because it is blocked here for this thread.
inline bool WriteQuietly(int fd, std::string_view text) {
  sigset_t pipeSignal;
  sigset_t before;
  sigemptyset(&pipeSignal);
  sigaddset(&pipeSignal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipeSignal, &before);
  int error = 0;
  while (!text.empty() && error == 0) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written >= 0) text.remove_prefix(static_cast<size_t>(written));
    else if (errno != EINTR) error = errno;
  }
  if (error == EPIPE) {
    const timespec now{};
    while (sigtimedwait(&pipeSignal, nullptr, &now) == -1 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return error == 0;
}

}  // namespace tritonode
