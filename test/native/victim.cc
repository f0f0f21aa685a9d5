// Stands for Triton's Python backend in the test of its guarded locks: calls pthread through its own linkage table.
#include <pthread.h>

extern "C" __attribute__((visibility("default"))) int VictimLock(pthread_mutex_t* mutex) {
  return pthread_mutex_lock(mutex);
}
