// Stands for Triton's Python backend in the tests of its repairs: imports what that imports, each function once.
#include <fcntl.h>
#include <fts.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

struct TRITONBACKEND_Request;
struct TRITONBACKEND_Response;
struct TRITONBACKEND_ResponseFactory;
struct TRITONSERVER_Error;
extern "C" {
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory**, TRITONBACKEND_Request*);
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory*);
TRITONSERVER_Error* TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory*, const unsigned);
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory*, bool*);
TRITONSERVER_Error* TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response**, TRITONBACKEND_ResponseFactory*);
}

EXPORT int VictimLock(pthread_mutex_t* mutex) { return pthread_mutex_lock(mutex); }

// Never called.
EXPORT void VictimFactories(TRITONBACKEND_ResponseFactory* factory, TRITONBACKEND_Response* response, bool* cancelled) {
  TRITONBACKEND_ResponseFactoryNew(&factory, nullptr);
  TRITONBACKEND_ResponseFactorySendFlags(factory, 0);
  TRITONBACKEND_ResponseFactoryIsCancelled(factory, cancelled);
  TRITONBACKEND_ResponseNewFromFactory(&response, factory);
  TRITONBACKEND_ResponseFactoryDelete(factory);
}

// Never called.
EXPORT void VictimImports(pthread_mutex_t* mutex, pthread_cond_t* condition, sem_t* semaphore, char* text, char** texts,
                          const timespec* until) {
  pthread_mutex_timedlock(mutex, until);
  pthread_cond_wait(condition, mutex);
  if (fork() == 0 && execvp("false", texts) != 0) sem_init(semaphore, 0, 0);
#ifndef VICTIM_WITHOUT_WAIT
  sem_wait(semaphore);
#endif
  sem_timedwait(semaphore, until);
  sleep(1);
  fchmod(shm_open(text, 0, 0), 0);
  if (mkdtemp(text) != nullptr) fts_open(texts, 0, nullptr);
#ifdef VICTIM_OF_25_08
  static const char kText[] = "Waiting for the stub health monitoring thread to start";
  if (write(1, kText, sizeof kText) < 0) sleep(1);
#endif
}
