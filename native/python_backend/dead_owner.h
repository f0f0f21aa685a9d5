// Keeps a killed Python child from ending this process.
//
// Triton's Python backend shares robust pthread mutexes with its stub. When the stub is killed while one of its threads
// holds such a mutex, locking it here returns EOWNERDEAD; Boost.Interprocess turns that into a lock_exception, which leaves
// a destructor or a thread's function: std::terminate, and Node is gone. Measured: about one kill in ten under 64 streams.
//
// POSIX's answer is to mark the mutex consistent and to repair what it protects. The one that protects the allocator of the
// shared memory needs that: see shared_heap.h. What the others protect are single numbers, and a model whose child died
// takes no more requests.
#pragma once

#include <pthread.h>

namespace tritonode {

int Lock(pthread_mutex_t* mutex);
// The mutex that this thread has taken last by that; null if none.
const pthread_mutex_t* LastLocked();
int TryLock(pthread_mutex_t* mutex);
// Used for the stub's health alone, before each request: with a second, which is too little on a busy machine, as for its
// messages (child_waits.h), and for ever again where the child is dead, so that the request would have no end.
int TimedLock(pthread_mutex_t* mutex, const timespec* until);
// Waking up takes the mutex again.
int Wait(pthread_cond_t* condition, pthread_mutex_t* mutex);
int TimedWait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until);

}  // namespace tritonode
