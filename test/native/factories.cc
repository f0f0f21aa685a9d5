// Stands for Triton's response factories in the tests of the Python backend's repairs (core, src/backend_model.cc).
#include <atomic>
#include <cstdint>

struct TRITONBACKEND_Request;
struct TRITONBACKEND_Response;
struct TRITONBACKEND_ResponseFactory;
struct TRITONSERVER_Error;

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {
struct Factory {
  std::atomic<uint32_t> flags{0};
};
std::atomic<int> live{0};
std::atomic<int> used{0};
}  // namespace

EXPORT TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory** factory,
                                                            TRITONBACKEND_Request*) {
  *factory = reinterpret_cast<TRITONBACKEND_ResponseFactory*>(new Factory);
  live++;
  return nullptr;
}

EXPORT TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory* factory) {
  delete reinterpret_cast<Factory*>(factory);
  live--;
  return nullptr;
}

// Works in the factory's memory, so that AddressSanitizer sees a use after its end.
EXPORT TRITONSERVER_Error* TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory* factory,
                                                                  const uint32_t flags) {
  reinterpret_cast<Factory*>(factory)->flags = flags;
  used++;
  return nullptr;
}

EXPORT TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory* factory,
                                                                    bool* cancelled) {
  *cancelled = reinterpret_cast<Factory*>(factory)->flags == UINT32_MAX;
  return nullptr;
}

EXPORT TRITONSERVER_Error* TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response** response,
                                                                TRITONBACKEND_ResponseFactory* factory) {
  *response = reinterpret_cast<TRITONBACKEND_Response*>(factory);
  used++;
  return nullptr;
}

EXPORT int LiveTritonFactories() { return live; }
EXPORT int UsedTritonFactories() { return used; }
