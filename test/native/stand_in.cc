// A stand-in for libtritonserver that misbehaves on demand: the real one can't be made to answer late, twice or out of
// order. The model's name says what happens to a request; every object is counted, so that a test can ask what is left.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../../native/triton/api.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using tritonode::AllocateFunction;
using tritonode::DataType;
using tritonode::MemoryType;
using tritonode::MetricFormat;
using tritonode::ParameterType;
using tritonode::ReleaseBufferFunction;
using tritonode::RequestReleaseFunction;
using tritonode::ResponseCompleteFunction;
using tritonode::StartFunction;

struct TRITONSERVER_Error {
  uint32_t code;
  std::string message;
};
struct TRITONSERVER_ServerOptions {
  std::string calls;
  std::string backendDirectory;
};
struct TRITONSERVER_Message {
  std::string json;
};
struct TRITONSERVER_Metrics {
  std::string text;
};
struct TRITONSERVER_Parameter {
  std::string name;
};
struct TRITONSERVER_ResponseAllocator {
  AllocateFunction allocate;
  ReleaseBufferFunction release;
};
struct TRITONSERVER_InferenceRequest {
  std::string model;
  std::string input;
  RequestReleaseFunction release = nullptr;
  void* releaseUserp = nullptr;
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  void* allocatorUserp = nullptr;
  ResponseCompleteFunction complete = nullptr;
  void* completeUserp = nullptr;
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
};
struct TRITONSERVER_InferenceResponse {
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  TRITONSERVER_Error* error = nullptr;
  std::string model;
  void* buffer = nullptr;
  void* bufferUserp = nullptr;
  size_t size = 0;
  int64_t shape = 1;
};
struct TRITONSERVER_Server {
  std::mutex mutex;
  std::vector<std::thread> threads;
  std::set<std::string> models;
};

namespace {

std::atomic<int> liveErrors, liveRequests, liveResponses, liveServers, liveMessages, hangingLoads, hangingStarts;

TRITONSERVER_Error* NewError(uint32_t code, const std::string& message) {
  ++liveErrors;
  return new TRITONSERVER_Error{code, message};
}

// What the threads need of a request, which may be deleted while they still answer.
struct Call {
  explicit Call(const TRITONSERVER_InferenceRequest& request) : copy(request) {}
  TRITONSERVER_InferenceRequest copy;

  void Release(TRITONSERVER_InferenceRequest* request) { copy.release(request, 1, copy.releaseUserp); }

  void Final() { copy.complete(nullptr, 1, copy.completeUserp); }

  void Respond(uint32_t flags, TRITONSERVER_Error* error = nullptr) {
    ++liveResponses;
    auto* response = new TRITONSERVER_InferenceResponse;
    response->allocator = copy.allocator;
    response->error = error;
    response->model = copy.model;
    if (error == nullptr) {
      response->size = copy.input.size();
      MemoryType type = MemoryType::kGpu;
      int64_t id = 0;
      TRITONSERVER_Error* failure =
          copy.allocator->allocate(copy.allocator, "out", response->size, MemoryType::kGpu, 0, copy.allocatorUserp,
                                   &response->buffer, &response->bufferUserp, &type, &id);
      if (failure != nullptr || type != MemoryType::kCpu) std::abort();
      if (response->size > 0) std::memcpy(response->buffer, copy.input.data(), response->size);
    }
    copy.complete(response, flags, copy.completeUserp);
  }

  bool cancelled() const { return copy.cancelled->load(); }
};

void Nap() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

void Serve(Call call, TRITONSERVER_InferenceRequest* request) {
  const std::string& how = call.copy.model;
  if (how == "echo") {
    call.Respond(1);
    call.Release(request);
  } else if (how == "stream") {
    call.Release(request);
    for (int i = 0; i < 10; ++i) call.Respond(0);
    call.Final();
  } else if (how == "endless") {
    call.Release(request);
    while (!call.cancelled()) {
      call.Respond(0);
      Nap();
    }
    call.Respond(1, NewError(7, "cancelled"));
  } else if (how == "error") {
    call.Release(request);
    call.Respond(0);
    call.Respond(1, NewError(1, "no"));
  } else if (how == "twice") {
    call.Release(request);
    call.Respond(1);
    call.Final();
    call.Respond(0);
    call.Respond(1);
    Nap();
    call.Release(nullptr);
    call.Respond(1);
  } else if (how == "reordered") {
    call.Respond(1);
    Nap();
    call.Respond(0);
    Nap();
    call.Release(request);
  } else if (how == "dead") {
    call.Release(request);
  } else if (how == "late") {
    call.Release(request);
    for (int i = 0; i < 20; ++i) Nap();
    call.Respond(0);
    call.Final();
  }
}

}  // namespace

// For the tests.
EXPORT int StandInLive(const char* what) {
  const std::string kind = what;
  if (kind == "errors") return liveErrors;
  if (kind == "requests") return liveRequests;
  if (kind == "responses") return liveResponses;
  if (kind == "messages") return liveMessages;
  if (kind == "hanging loads") return hangingLoads;
  if (kind == "hanging starts") return hangingStarts;
  return liveServers;
}

EXPORT TRITONSERVER_Error* TRITONSERVER_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = 1;
  *minor = 34;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ErrorNew(uint32_t code, const char* message) { return NewError(code, message); }
EXPORT void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error) {
  --liveErrors;
  delete error;
}
EXPORT uint32_t TRITONSERVER_ErrorCode(TRITONSERVER_Error* error) { return error->code; }
EXPORT const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error) { return error->message.c_str(); }

EXPORT TRITONSERVER_Parameter* TRITONSERVER_ParameterNew(const char* name, ParameterType, const void*) {
  return new TRITONSERVER_Parameter{name};
}
EXPORT TRITONSERVER_Parameter* TRITONSERVER_ParameterBytesNew(const char* name, const void*, uint64_t) {
  return new TRITONSERVER_Parameter{name};
}
EXPORT void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter* parameter) { delete parameter; }

EXPORT TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(TRITONSERVER_ResponseAllocator** allocator,
                                                             AllocateFunction allocate, ReleaseBufferFunction release,
                                                             StartFunction) {
  *allocator = new TRITONSERVER_ResponseAllocator{allocate, release};
  return nullptr;
}

EXPORT TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message* message) {
  --liveMessages;
  delete message;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message* message, const char** base,
                                                               size_t* size) {
  *base = message->json.data();
  *size = message->json.size();
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_MetricsDelete(TRITONSERVER_Metrics* metrics) {
  delete metrics;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_MetricsFormatted(TRITONSERVER_Metrics* metrics, MetricFormat,
                                                         const char** base, size_t* size) {
  *base = metrics->text.data();
  *size = metrics->text.size();
  return nullptr;
}

EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(TRITONSERVER_InferenceRequest** request,
                                                            TRITONSERVER_Server*, const char* model, int64_t) {
  if (std::string(model) == "unknown") return NewError(2, "unknown model");
  ++liveRequests;
  *request = new TRITONSERVER_InferenceRequest;
  (*request)->model = model;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest* request) {
  --liveRequests;
  delete request;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceRequestCancel(TRITONSERVER_InferenceRequest* request) {
  request->cancelled->store(true);
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(TRITONSERVER_InferenceRequest* request,
                                                                        const char*, const void* base, size_t size,
                                                                        MemoryType, int64_t) {
  request->input.append(static_cast<const char*>(base), size);
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(TRITONSERVER_InferenceRequest* request,
                                                                           RequestReleaseFunction release,
                                                                           void* userp) {
  request->release = release;
  request->releaseUserp = userp;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(
    TRITONSERVER_InferenceRequest* request, TRITONSERVER_ResponseAllocator* allocator, void* allocatorUserp,
    ResponseCompleteFunction complete, void* userp) {
  request->allocator = allocator;
  request->allocatorUserp = allocatorUserp;
  request->complete = complete;
  request->completeUserp = userp;
  return nullptr;
}
#define ACCEPT(name, ...) \
  EXPORT TRITONSERVER_Error* TRITONSERVER_##name(__VA_ARGS__) { return nullptr; }
ACCEPT(InferenceRequestSetId, TRITONSERVER_InferenceRequest*, const char*)
ACCEPT(InferenceRequestSetFlags, TRITONSERVER_InferenceRequest*, uint32_t)
ACCEPT(InferenceRequestSetCorrelationId, TRITONSERVER_InferenceRequest*, uint64_t)
ACCEPT(InferenceRequestSetCorrelationIdString, TRITONSERVER_InferenceRequest*, const char*)
ACCEPT(InferenceRequestSetPriorityUInt64, TRITONSERVER_InferenceRequest*, uint64_t)
ACCEPT(InferenceRequestAddInput, TRITONSERVER_InferenceRequest*, const char*, DataType, const int64_t*, uint64_t)
ACCEPT(InferenceRequestAddRequestedOutput, TRITONSERVER_InferenceRequest*, const char*)
ACCEPT(InferenceRequestSetStringParameter, TRITONSERVER_InferenceRequest*, const char*, const char*)
ACCEPT(InferenceRequestSetIntParameter, TRITONSERVER_InferenceRequest*, const char*, int64_t)
ACCEPT(InferenceRequestSetBoolParameter, TRITONSERVER_InferenceRequest*, const char*, bool)

EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse* response) {
  --liveResponses;
  if (response->size > 0) {
    response->allocator->release(response->allocator, response->buffer, response->bufferUserp, response->size,
                                 MemoryType::kCpu, 0);
  }
  if (response->error != nullptr) TRITONSERVER_ErrorDelete(response->error);
  delete response;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse* response) {
  return response->error;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceResponseModel(TRITONSERVER_InferenceResponse* response,
                                                               const char** model, int64_t* version) {
  *model = response->model.c_str();
  *version = 1;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameterCount(TRITONSERVER_InferenceResponse*,
                                                                        uint32_t* count) {
  *count = 1;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameter(TRITONSERVER_InferenceResponse*, uint32_t,
                                                                   const char** name, ParameterType* type,
                                                                   const void** value) {
  *name = "text";
  *type = ParameterType::kString;
  *value = "value";
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(TRITONSERVER_InferenceResponse*,
                                                                     uint32_t* count) {
  *count = 1;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(TRITONSERVER_InferenceResponse* response, uint32_t,
                                                                const char** name, DataType* type,
                                                                const int64_t** shape, uint64_t* dimensions,
                                                                const void** base, size_t* size, MemoryType* memory,
                                                                int64_t* id, void** userp) {
  *name = "out";
  *type = DataType::kUint8;
  *shape = &response->shape;
  *dimensions = 1;
  *base = response->buffer;
  *size = response->size;
  *memory = MemoryType::kCpu;
  *id = 0;
  *userp = response->bufferUserp;
  return nullptr;
}

using Options = TRITONSERVER_ServerOptions;
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerOptionsNew(Options** options) {
  *options = new Options;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerOptionsDelete(Options* options) {
  delete options;
  return nullptr;
}
ACCEPT(ServerOptionsSetServerId, Options*, const char*)
ACCEPT(ServerOptionsSetModelRepositoryPath, Options*, const char*)
ACCEPT(ServerOptionsSetModelControlMode, Options*, uint32_t)
ACCEPT(ServerOptionsSetStrictModelConfig, Options*, bool)
ACCEPT(ServerOptionsSetPinnedMemoryPoolByteSize, Options*, uint64_t)
ACCEPT(ServerOptionsSetCudaMemoryPoolByteSize, Options*, int, uint64_t)
ACCEPT(ServerOptionsSetMinSupportedComputeCapability, Options*, double)
ACCEPT(ServerOptionsSetExitOnError, Options*, bool)
ACCEPT(ServerOptionsSetStrictReadiness, Options*, bool)
ACCEPT(ServerOptionsSetExitTimeout, Options*, unsigned)
ACCEPT(ServerOptionsSetBufferManagerThreadCount, Options*, unsigned)
ACCEPT(ServerOptionsSetModelLoadThreadCount, Options*, unsigned)
ACCEPT(ServerOptionsSetModelLoadRetryCount, Options*, unsigned)
ACCEPT(ServerOptionsSetEnablePeerAccess, Options*, bool)
ACCEPT(ServerOptionsSetLogFile, Options*, const char*)
ACCEPT(ServerOptionsSetLogInfo, Options*, bool)
ACCEPT(ServerOptionsSetLogWarn, Options*, bool)
ACCEPT(ServerOptionsSetLogError, Options*, bool)
ACCEPT(ServerOptionsSetLogFormat, Options*, uint32_t)
ACCEPT(ServerOptionsSetLogVerbose, Options*, int)
ACCEPT(ServerOptionsSetMetrics, Options*, bool)
ACCEPT(ServerOptionsSetGpuMetrics, Options*, bool)
ACCEPT(ServerOptionsSetCpuMetrics, Options*, bool)
ACCEPT(ServerOptionsSetMetricsInterval, Options*, uint64_t)
ACCEPT(ServerOptionsSetRepoAgentDirectory, Options*, const char*)
ACCEPT(ServerOptionsSetBackendConfig, Options*, const char*, const char*, const char*)
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBackendDirectory(Options* options,
                                                                        const char* directory) {
  options->backendDirectory = directory;
  return std::string(directory) == "/refused" ? NewError(3, "a bad directory") : nullptr;
}

EXPORT TRITONSERVER_Error* TRITONSERVER_ServerNew(TRITONSERVER_Server** server, Options* options) {
  if (options->backendDirectory == "/stuck") {
    ++hangingStarts;
    std::this_thread::sleep_for(std::chrono::seconds(60));
  }
  // Reachable for ever: a server that is left behind on purpose is not a leak.
  static std::mutex& mutex = *new std::mutex;
  static auto& all = *new std::vector<TRITONSERVER_Server*>;
  ++liveServers;
  *server = new TRITONSERVER_Server;
  const std::lock_guard<std::mutex> lock(mutex);
  all.push_back(*server);
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerDelete(TRITONSERVER_Server* server) {
  // As the real one: not while something is alive, and then not at all.
  for (int i = 0; i < 100 && (liveRequests > 0 || liveResponses > 0); ++i) Nap();
  if (liveRequests > 0 || liveResponses > 0) return NewError(1, "Exit timeout expired. Exiting immediately.");
  for (std::thread& thread : server->threads) thread.join();
  --liveServers;
  delete server;
  return nullptr;
}
ACCEPT(ServerRegisterModelRepository, TRITONSERVER_Server*, const char*, const TRITONSERVER_Parameter**, uint32_t)
ACCEPT(ServerUnregisterModelRepository, TRITONSERVER_Server*, const char*)
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerIsLive(TRITONSERVER_Server*, bool* live) {
  *live = true;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerIsReady(TRITONSERVER_Server*, bool* ready) {
  *ready = true;
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerModelIsReady(TRITONSERVER_Server* server, const char* model, int64_t,
                                                           bool* ready) {
  const std::lock_guard<std::mutex> lock(server->mutex);
  *ready = server->models.count(model) > 0;
  return nullptr;
}
ACCEPT(ServerModelTransactionProperties, TRITONSERVER_Server*, const char*, int64_t, uint32_t*, void**)

namespace {
TRITONSERVER_Error* Say(TRITONSERVER_Message** message, const std::string& json) {
  ++liveMessages;
  *message = new TRITONSERVER_Message{json};
  return nullptr;
}
}  // namespace
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerMetadata(TRITONSERVER_Server*, TRITONSERVER_Message** message) {
  return Say(message, R"({"name":"stand-in"})");
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerModelMetadata(TRITONSERVER_Server*, const char* model, int64_t,
                                                            TRITONSERVER_Message** message) {
  if (std::string(model) == "unknown") return NewError(2, "unknown model");
  return Say(message, "{}");
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerModelStatistics(TRITONSERVER_Server*, const char*, int64_t,
                                                              TRITONSERVER_Message** message) {
  return Say(message, "{}");
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerModelConfig(TRITONSERVER_Server*, const char*, int64_t, uint32_t,
                                                          TRITONSERVER_Message** message) {
  return Say(message, "{}");
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerModelIndex(TRITONSERVER_Server* server, uint32_t,
                                                         TRITONSERVER_Message** message) {
  const std::lock_guard<std::mutex> lock(server->mutex);
  return Say(message, server->models.empty() ? "[]" : R"([{"name":"m","state":"READY"}])");
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerLoadModelWithParameters(TRITONSERVER_Server* server, const char* model,
                                                                      const TRITONSERVER_Parameter**, uint64_t) {
  const std::string name = model;
  if (name == "broken") return NewError(1, "load failed");
  if (name == "hanging" || name == "stuck") {
    ++hangingLoads;
    std::this_thread::sleep_for(std::chrono::seconds(name == "hanging" ? 3 : 60));
    --hangingLoads;
  }
  const std::lock_guard<std::mutex> lock(server->mutex);
  server->models.insert(name);
  return nullptr;
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerLoadModel(TRITONSERVER_Server* server, const char* model) {
  return TRITONSERVER_ServerLoadModelWithParameters(server, model, nullptr, 0);
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerUnloadModel(TRITONSERVER_Server* server, const char* model) {
  const std::lock_guard<std::mutex> lock(server->mutex);
  return server->models.erase(model) > 0 ? nullptr : NewError(2, "not loaded");
}
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerUnloadModelAndDependents(TRITONSERVER_Server* server, const char* model) {
  return TRITONSERVER_ServerUnloadModel(server, model);
}
#ifndef STAND_IN_WITHOUT_METRICS
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerMetrics(TRITONSERVER_Server*, TRITONSERVER_Metrics** metrics) {
  *metrics = new TRITONSERVER_Metrics{"nv_up 1\n"};
  return nullptr;
}
#endif
EXPORT TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(TRITONSERVER_Server* server,
                                                         TRITONSERVER_InferenceRequest* request,
                                                         TRITONSERVER_InferenceTrace*) {
  if (request->model == "refused") return NewError(4, "no room");
  Call call(*request);
  if (request->model == "synchronous") {
    // All of it before this function returns.
    call.Respond(0);
    call.Release(request);
    call.Respond(1);
    return nullptr;
  }
  const std::lock_guard<std::mutex> lock(server->mutex);
  server->threads.emplace_back(Serve, call, request);
  return nullptr;
}
