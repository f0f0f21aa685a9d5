#include "owner_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace tritonode {

void OwnerLock::Hold(const std::string& path) {
  // Locked before it has its name: seen without a lock it would count as left behind.
  std::string unnamed = path + ".XXXXXX";
  const int fd = mkostemp(unnamed.data(), O_CLOEXEC);
  if (fd < 0) return;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0 && rename(unnamed.c_str(), path.c_str()) == 0) {
    fd_ = fd;
    return;
  }
  unlink(unnamed.c_str());
  close(fd);
}

void OwnerLock::Release() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

OwnerLock::Owner OwnerLock::Look(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return Owner::kUnknown;
  const bool free = flock(fd, LOCK_EX | LOCK_NB) == 0;
  const bool held = !free && errno == EWOULDBLOCK;
  close(fd);
  return free ? Owner::kGone : held ? Owner::kLives : Owner::kUnknown;
}

}  // namespace tritonode
