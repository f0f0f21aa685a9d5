// What a server may leave behind: processes of its children, shared memory, folders.
#pragma once

#include <string>

namespace tritonode {

// Kills every process whose environment holds TRITONODE_PRIVATE_DIR=`privateDirectory`, with its process group, and removes
// /dev/shm/`shmPrefix`*, Triton's folders that links in the directory lead to, and the directory. The reaper's script does
// the same, in a tenth of a second or more, because each of its steps is a process. False if something is still there.
bool RemoveLeftovers(const std::string& privateDirectory, const std::string& shmPrefix);

}  // namespace tritonode
