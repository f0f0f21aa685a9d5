// Lets Triton's Python backend take a child that waits, warm, where it would start a new one.
//
// The backend forks, puts the command together in the forked process and executes it there (StubLauncher::Launch). So its
// fork and its execvp go through these functions. While a warm child waits, the forked process does not execute the
// command at once: it sends it, with its environment and working directory, to the thread that forked. If that finds a
// warm child for it (process/warm_children.h), the forked process ends, and the backend is given the warm child's pid: it
// is a child of this process too, so everything the backend does with a pid works as before.
#pragma once

#include <sys/types.h>

namespace tritonode {

// fork(2), but may return the pid of a warm child.
pid_t ForkOrTake();
// execvp(3). In a process that ForkOrTake has made it asks first.
int ExecuteOrGive(const char* file, char* const arguments[]);

}  // namespace tritonode
