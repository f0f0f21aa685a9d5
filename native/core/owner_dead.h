// Keeps a killed Python child from taking this process with it.
//
// Triton's Python backend (24.10) shares robust pthread mutexes with its stub. When the stub is killed while one of its
// threads holds such a mutex, locking it here returns EOWNERDEAD; Boost.Interprocess turns that into a lock_exception,
// and the backend's code throws it out of a destructor or a thread's function: std::terminate, and Node is gone.
// Measured: about one kill in ten under 64 streams.
//
// The cure is what POSIX has for this: mark the mutex consistent and go on. It has to happen where the backend calls the
// lock functions, so the entries of that library's own procedure linkage table are pointed at wrappers that do it.
// Nothing else in the process sees a difference.
#pragma once

#include <string>

#include "status.h"

namespace tritonode {

// Opens libtriton_python.so (it stays open; Triton then gets the same copy) and points its lock functions at the
// wrappers, its waits for children at those of dead_child.h, and has it make its shared memory for this user alone. For
// each folder that it makes in /tmp (python_env_*) a link of the same name is put into `privateDirectory`; that somebody
// removes such a folder meanwhile does no harm. LIBRARY if it can't be opened. libtritonserver must be open.
Status GuardPythonBackend(const std::string& path, const std::string& privateDirectory);

}  // namespace tritonode
