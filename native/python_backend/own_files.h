// What the Python backend makes in /dev/shm and /tmp: for this user alone, and removed with this process.
#pragma once

#include <fts.h>
#include <sys/types.h>

#include <string>

namespace tritonode {

// Where MakeTemporary puts its links.
void SetTemporaryLinks(const std::string& privateDirectory);

// shm_open(3) and fchmod(2), without permissions for others: the backend makes its shared memory readable for every user
// of the machine, and prompts and answers pass through it.
int OpenPrivate(const char* name, int flags, mode_t mode);
int ChangePrivateMode(int fd, mode_t mode);
// mkdtemp(3). The backend makes a folder in /tmp for packed Python environments and removes it when its last server ends.
// For a process that ends before, a link of the same name in the private directory tells who removes that directory.
char* MakeTemporary(char* pattern);
// fts_open(3). Something may have removed that folder from /tmp while the host ran. The backend walks through it when its
// last server ends, and throws out of a destructor if it is not there; an empty one will do.
FTS* WalkTree(char* const* paths, int options, int (*compare)(const FTSENT**, const FTSENT**));

}  // namespace tritonode
