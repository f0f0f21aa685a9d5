// Keeps a load from waiting for ever for a Python child that is dead.
//
// Triton's Python backend (24.10) waits for a new stub's first message without a limit (StubLauncher::Launch), and again
// for the completed configuration. A stub that can't start, or is killed in its first moments, leaves the load hanging,
// the model's name taken and the server undeletable.
//
// So the waits of that library go through these functions, which remember which child a semaphore was first waited on
// for and end the wait when that child is gone. The launcher ignores the first message's content and then, for a model's
// stub, finds by itself that it is not healthy. The stub that completes a configuration is asked for a message whose
// content counts: that wait ends with the exception that the backend throws, and catches there, for a bad answer.
//
// A slow child is the opposite case. While it loads a model the backend calls a stub unhealthy that it has not heard of
// for a second, frees the memory that the two share and waits for its end. A stub that was only short of CPU goes on
// writing there, and the next free crashes this process. Measured: one load in some hundred with three busy processes to
// a core. So a wait with a deadline gives a child that lives ten seconds more.
//
// And a third one: before a child is ended, the backend sleeps for a second to see whether it is healthy
// (StubLauncher::UpdateHealth), and asks a healthy one to end by itself, a sick one not. A child that is dead will not get
// well, and one in which nothing is left to be done (AllowEnd) need not be asked: both count as sick at once, and the
// backend kills and reaps them.
#pragma once

#include <semaphore.h>
#include <sys/types.h>

namespace tritonode {

// fork(2): the next semaphore that this thread waits on is the child's.
pid_t ForkChild();
// sem_init(3): a semaphore at a new place in shared memory belongs to no child.
int InitSemaphore(sem_t* semaphore, int shared, unsigned value);
// sem_wait(3), but ends too when the semaphore's child is dead; may throw then.
int WaitForChild(sem_t* semaphore);
// sem_timedwait(3); the deadline is later for a child that lives.
int WaitForChildUntil(sem_t* semaphore, const timespec* until);
// sleep(3), but only for as long as the child lives and is needed whose lock this thread took last.
unsigned SleepForHealth(unsigned seconds);

}  // namespace tritonode
