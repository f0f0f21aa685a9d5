// Which Python child uses a piece of the memory that Triton's Python backend shares with it, and what is known of that
// child.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <string>

namespace tritonode {

// The file in /dev/shm that is mapped at `address`; empty if there is none.
std::string SharedFileAt(const void* address);

// The file at `address` is `child`'s from now on. A new child with the number of an earlier one may not be ended at once.
void NoteChild(const void* address, pid_t child);
// The child whose file is mapped at `address`, however often and wherever it is mapped; 0 if none was noted.
pid_t ChildAt(const void* address);
// The same, quick enough for each request: it remembers what lies at an address.
pid_t ChildUsing(const void* address);
// Another child's memory may lie at any address from now on.
void ForgetAddresses();

// Whether a child of this process has ended, reaped or not. It is not reaped here: Triton waits for its children itself.
bool IsDead(pid_t child);

// A time (CLOCK_REALTIME) at which it is worth looking again whether a child is dead.
timespec SoonFromNow();

// Triton has begun to end this child.
void NoteEnd(pid_t child);
bool EndHasBegun(pid_t child);

// Nothing is left to be done in this child: where Triton ends it, it need not be asked first.
void AllowEnd(pid_t child);
bool MayEnd(pid_t child);

}  // namespace tritonode
