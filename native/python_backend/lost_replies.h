// Frees what Triton's Python backend holds for the requests of a child that died in the middle of their responses.
//
// For each request of a decoupled model the backend makes a response factory and hands its address to the child, which
// hands it back with the last response. When the child is killed before that, nobody deletes the factory, and the factory
// keeps the model: it stays UNLOADING, with its threads and its shared memory, and ServerDelete gives up after the exit
// timeout.
//
// So the backend gets a number for each factory, never its address, and the factories of requests that a dead child left
// unfinished are deleted here, those of an ensemble's own requests too. What the child had sent before it died finds nothing under that number.
//
// A child can also die between a message and its acknowledgement, for which a thread of the backend waits without a limit.
// The flag that it waits for follows the condition in memory; it is set for the child when that is dead.
//
// Where a child does not count as healthy, the backend unmaps what it shared with it without waiting for the threads that
// are at work on its messages. So it is known here which threads are.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

// Opaque in the API as well.
struct TRITONBACKEND_Request;
struct TRITONBACKEND_Response;
struct TRITONBACKEND_ResponseFactory;
struct TRITONSERVER_Error;
struct TRITONSERVER_InferenceRequest;

namespace tritonode {

// Triton's own functions (triton-inference-server/core, include/triton/core/tritonbackend.h), which those below call.
struct FactoryFunctions {
  TRITONSERVER_Error* (*create)(TRITONBACKEND_ResponseFactory** factory, TRITONBACKEND_Request* request);
  TRITONSERVER_Error* (*remove)(TRITONBACKEND_ResponseFactory* factory);
  TRITONSERVER_Error* (*sendFlags)(TRITONBACKEND_ResponseFactory* factory, uint32_t flags);
  TRITONSERVER_Error* (*isCancelled)(TRITONBACKEND_ResponseFactory* factory, bool* cancelled);
  TRITONSERVER_Error* (*newResponse)(TRITONBACKEND_Response** response, TRITONBACKEND_ResponseFactory* factory);
};
FactoryFunctions& TritonFactoryFunctions();

// In place of those, with numbers for factories. A factory that was dropped is cancelled, its flags go nowhere, and a new
// response of it throws the backend's own exception, which ends the task of that one message.
TRITONSERVER_Error* NewFactory(TRITONBACKEND_ResponseFactory** factory, TRITONBACKEND_Request* request);
TRITONSERVER_Error* DeleteFactory(TRITONBACKEND_ResponseFactory* factory);
TRITONSERVER_Error* SendFactoryFlags(TRITONBACKEND_ResponseFactory* factory, uint32_t flags);
TRITONSERVER_Error* IsFactoryCancelled(TRITONBACKEND_ResponseFactory* factory, bool* cancelled);
TRITONSERVER_Error* NewResponseFromFactory(TRITONBACKEND_Response** response, TRITONBACKEND_ResponseFactory* factory);

// The child that got this request is dead: deletes the request's factory, if there still is one.
void DropFactory(const TRITONSERVER_InferenceRequest* request);
// This thread is about to send `child` the requests for which it has made factories since it last called this. If the
// child is dead, they are not sent, and their factories are deleted.
void AssignFactories(pid_t child, bool dead);
// Deletes the factories of all requests that were sent to this child, which is dead.
void DropFactoriesOf(pid_t child);
// How many there are.
size_t LiveFactories();

// Whether this is a wait for the acknowledgement of a message, and not one of the backend's threads for work.
bool IsAcknowledgement(const pthread_cond_t* condition, const pthread_mutex_t* mutex);
// pthread_cond_wait(3) for such a wait, but ends too when the child is dead whose turn it is.
int WaitForAcknowledgement(pthread_cond_t* condition, pthread_mutex_t* mutex);

// This thread works on a message there from now on; with null, it waits for work.
void NoteWork(const void* message);
// Whether a thread works on a message that is in the same shared file as `address`.
bool IsAtWork(const void* address);

}  // namespace tritonode
