#include "reaper.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <exception>
#include <string_view>
#include <utility>

#include "../common/quiet_write.h"
#include "leftovers.h"

namespace tritonode {
namespace {

// $1: the private directory, $2: the prefix of our shared memory.
// Two rounds of killing, because a child may have forked while the first one ran. A stub that leads its own process
// group (the wrapper uses setsid where there is one) takes its group with it, which reaches children that have written
// over their own environment (setproctitle does). Triton leaves its folder of python_env_* where a child of it was killed;
// what a link leads to is removed only if it has that name and is this user's.
// Semaphores have names of their own in /dev/shm (sem_overview(7)).
constexpr const char* kScript = R"sh(
read -r word
if [ "$word" = end ]; then exit 0; fi
for round in 1 2; do
  for file in $(grep -lsF -- "TRITONODE_PRIVATE_DIR=$1" /proc/[0-9]*/environ); do
    pid=${file#/proc/}; pid=${pid%/environ}
    kill -9 -- "-$pid" 2>/dev/null; kill -9 "$pid" 2>/dev/null
  done
done
for link in "$1"/python_env_*; do
  [ -L "$link" ] || continue
  made=$(readlink -- "$link")
  [ "${made##*/}" = "${link##*/}" ] && [ -d "$made" ] && [ ! -L "$made" ] && [ -O "$made" ] && rm -rf -- "$made"
done
rm -f -- "/dev/shm/$2"* "/dev/shm/sem.$2"*
rm -rf -- "$1"
)sh";

}  // namespace

Status Reaper::Start(const std::string& privateDirectory, const std::string& shmPrefix) {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return SystemError("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // If the read end were fd 0 already, dup2 onto itself clears close-on-exec (glibc 2.29 and later).
  posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // Its own session: a Ctrl-C in the terminal ends the host but not its reaper. Default signals, none blocked.
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::string shell = "sh";
  std::string flag = "-c";
  std::string script = kScript;
  std::string name = "tritonode-reaper";
  std::string directory = privateDirectory;
  std::string prefix = shmPrefix;
  std::array<char*, 7> arguments = {shell.data(), flag.data(), script.data(), name.data(),
                                    directory.data(), prefix.data(), nullptr};
  std::string path = "PATH=/usr/local/bin:/usr/bin:/bin";
  std::array<char*, 2> environment = {path.data(), nullptr};
  pid_t pid = 0;
  const int error = posix_spawn(&pid, "/bin/sh", &actions, &attributes, arguments.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(ends[0]);
  if (error != 0) {
    close(ends[1]);
    errno = error;
    return SystemError("cannot start /bin/sh");
  }
  pipe_ = ends[1];
  pid_ = pid;
  directory_ = privateDirectory;
  prefix_ = shmPrefix;
  return {};
}

bool Reaper::CleanUpHere() const {
  try {
    return RemoveLeftovers(directory_, prefix_);
  } catch (const std::exception&) {
    return false;
  }
}

void Reaper::Release(bool cleanUp) {
  if (pipe_ < 0) return;
  // The shell has to do it where memory or descriptors ran out here. Without a word the host is dead.
  const std::string_view word = cleanUp && !CleanUpHere() ? "clean\n" : "end\n";
  // A reaper that was killed leaves a pipe without a reader.
  WriteQuietly(pipe_, word);
  close(std::exchange(pipe_, -1));
  // Reaped here: libuv waits only for the children it started.
  const pid_t pid = std::exchange(pid_, 0);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace tritonode
