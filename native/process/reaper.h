// A tiny /bin/sh that outlives this process by a moment and cleans up after it, whatever ended it.
//
// Triton's stub ignores SIGTERM, and hangs when its host is killed while streaming; a host that is killed can't clean up
// at all. The reaper sleeps in `read` on a pipe whose only other end is held here: the kernel closes that end when
// this process ends in whichever way, and the shell then kills what is left of our children and removes our files.
#pragma once

#include <string>

#include "../common/status.h"

namespace tritonode {

class Reaper {
 public:
  // Everything whose environment holds TRITONODE_PRIVATE_DIR=`privateDirectory` is killed at the end, then
  // /dev/shm/`shmPrefix`* and the directory itself are removed. SYSTEM if the shell can't be started.
  Status Start(const std::string& privateDirectory, const std::string& shmPrefix);
  // `cleanUp`: do it now (as if this process had ended), here where that is possible; else the shell just ends.
  void Release(bool cleanUp);

  int pid() const { return pid_; }

 private:
  bool CleanUpHere() const;

  std::string directory_;
  std::string prefix_;
  int pipe_ = -1;
  int pid_ = 0;
};

}  // namespace tritonode
