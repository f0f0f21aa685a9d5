// Lock files that tell whether the owner of what lies beside them lives. A pid does not: it may mean another process, and
// in another PID namespace (containers that share /dev/shm or /tmp) it means nothing. The kernel lets go of a lock when
// its holder ends, in whichever way, and every namespace sees the same lock.
#pragma once

#include <string>

namespace tritonode {

class OwnerLock {
 public:
  // Makes the file and holds it until Release or the end of this process. Where that can't be done there is no file.
  void Hold(const std::string& path);
  void Release();

  enum class Owner { kUnknown, kLives, kGone };
  // kUnknown without such a file.
  static Owner Look(const std::string& path);

 private:
  int fd_ = -1;
};

}  // namespace tritonode
