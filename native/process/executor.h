// Threads of our own for the calls of Triton that block (ServerNew, LoadModel, ServerDelete take seconds; a load whose
// stub can't start takes for ever). libuv's pool has four threads for the whole process's files and DNS: one hanging
// load there would slow down everything else the host does.
#pragma once

#include <functional>

namespace tritonode {

// Runs `job` on a thread kept for this, or on a new one if all are busy. Idle threads end after some seconds.
// False if no thread could be started or no memory is left; the job is destroyed then without having run.
bool RunBlocking(std::function<void()> job) noexcept;

}  // namespace tritonode
