#include "call.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "../python_backend/lost_replies.h"

namespace tritonode {
namespace {

struct Call {
  std::shared_ptr<Server> server;
  const TritonApi* api = nullptr;
  // Guarded by the registry's mutex; null once nobody wants the responses.
  std::shared_ptr<EventQueue> queue;
  TRITONSERVER_InferenceRequest* request = nullptr;
  // Triton reads the inputs from here until it releases the request.
  RequestSpec spec;
  bool submitted = false;
  bool released = false;
  bool final = false;
  std::atomic<bool> childDied{false};

  // The last holder frees the request, so that a cancel on one thread never meets the delete on another.
  ~Call() {
    // Again: when the child died, the backend may not have made a factory for this request yet.
    if (childDied) DropFactory(request);
    if (request != nullptr) api->Take(api->InferenceRequestDelete(request));
  }
};

// Leaked on purpose: Triton's threads call back while static destructors run.
struct Registry {
  std::mutex mutex;
  std::condition_variable ended;
  std::unordered_map<uint64_t, std::shared_ptr<Call>> calls;
  // Every library opened so far (usually one): a late response, whose call was freed, must be deleted through the table of
  // its own library.
  std::vector<const TritonApi*> apis;
  uint64_t next = 1;
};

Registry& GetRegistry() {
  static Registry& registry = *new Registry;
  return registry;
}

std::shared_ptr<Call> Find(uint64_t id) {
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  const auto found = registry.calls.find(id);
  return found == registry.calls.end() ? nullptr : found->second;
}

// Call ids stay below 2^53, the largest integer of a JavaScript number; the index of the library goes above them.
constexpr int kApiShift = 56;
constexpr uint64_t kIdMask = (uint64_t{1} << kApiShift) - 1;

void* ToUserp(uint64_t id, size_t api) {
  return reinterpret_cast<void*>(static_cast<uintptr_t>(id | (static_cast<uint64_t>(api) << kApiShift)));
}

uint64_t FromUserp(void* userp) { return reinterpret_cast<uintptr_t>(userp) & kIdMask; }

const TritonApi& ApiOfUserp(void* userp) {
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  return *registry.apis.at(reinterpret_cast<uintptr_t>(userp) >> kApiShift);
}

// A response's output buffer. Triton's backend writes into it; taking it over from the response saves a copy.
struct OutputBuffer {
  void* memory = nullptr;
};

TRITONSERVER_Error* Allocate(TRITONSERVER_ResponseAllocator*, const char*, size_t byteSize, MemoryType, int64_t,
                             void* userp, void** buffer, void** bufferUserp, MemoryType* actual, int64_t* actualId) {
  // Always CPU memory, whatever the backend prefers: it then copies from the GPU, and JavaScript can read nothing else.
  *actual = MemoryType::kCpu;
  *actualId = 0;
  *buffer = nullptr;
  *bufferUserp = nullptr;
  if (byteSize == 0) return nullptr;
  auto* holder = static_cast<OutputBuffer*>(std::malloc(sizeof(OutputBuffer)));
  void* memory = std::malloc(byteSize);
  if (holder == nullptr || memory == nullptr) {
    std::free(holder);
    std::free(memory);
    const auto* api = static_cast<const TritonApi*>(userp);
    return api->ErrorNew(4 /* UNAVAILABLE */, "out of memory for an output tensor");
  }
  holder->memory = memory;
  *buffer = memory;
  *bufferUserp = holder;
  return nullptr;
}

TRITONSERVER_Error* ReleaseBuffer(TRITONSERVER_ResponseAllocator*, void*, void* bufferUserp, size_t, MemoryType,
                                  int64_t) {
  auto* holder = static_cast<OutputBuffer*>(bufferUserp);
  if (holder != nullptr) {
    std::free(holder->memory);
    std::free(holder);
  }
  return nullptr;
}

// One allocator for each opened library, kept for ever: responses hold on to it.
Status GetAllocator(const TritonApi* api, TRITONSERVER_ResponseAllocator** allocator) {
  static std::mutex& mutex = *new std::mutex;
  static auto& allocators = *new std::unordered_map<const TritonApi*, TRITONSERVER_ResponseAllocator*>;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& slot = allocators[api];
  if (slot == nullptr) {
    Status status = api->Take(api->ResponseAllocatorNew(&slot, Allocate, ReleaseBuffer, nullptr));
    if (!status.ok()) return status;
  }
  *allocator = slot;
  return {};
}

Status ReadOutput(const TritonApi& api, TRITONSERVER_InferenceResponse* from, uint32_t index, OutputTensor* to) {
  const char* name = nullptr;
  const int64_t* shape = nullptr;
  uint64_t dimensions = 0;
  const void* base = nullptr;
  MemoryType memoryType = MemoryType::kCpu;
  int64_t memoryId = 0;
  void* bufferUserp = nullptr;
  Status status = api.Take(api.InferenceResponseOutput(from, index, &name, &to->datatype, &shape, &dimensions, &base,
                                                       &to->byteSize, &memoryType, &memoryId, &bufferUserp));
  if (!status.ok()) return status;
  if (memoryType == MemoryType::kGpu) {
    return {"UNSUPPORTED", std::string("output '") + name + "' was left in GPU memory"};
  }
  to->name = name;
  to->shape.assign(shape, shape + dimensions);
  if (to->byteSize == 0) return {};
  auto* holder = static_cast<OutputBuffer*>(bufferUserp);
  if (holder != nullptr && holder->memory == base) {
    to->data.reset(static_cast<uint8_t*>(holder->memory));
    holder->memory = nullptr;
    return {};
  }
  to->data.reset(static_cast<uint8_t*>(std::malloc(to->byteSize)));
  if (to->data == nullptr) return {"UNAVAILABLE", "out of memory for an output tensor"};
  std::memcpy(to->data.get(), base, to->byteSize);
  return {};
}

Status ReadParameters(const TritonApi& api, TRITONSERVER_InferenceResponse* from, Response* to) {
  uint32_t count = 0;
  Status status = api.Take(api.InferenceResponseParameterCount(from, &count));
  for (uint32_t i = 0; status.ok() && i < count; ++i) {
    const char* name = nullptr;
    ParameterType type = ParameterType::kString;
    const void* value = nullptr;
    status = api.Take(api.InferenceResponseParameter(from, i, &name, &type, &value));
    if (!status.ok() || name == nullptr || value == nullptr) continue;
    switch (type) {
      case ParameterType::kString: to->parameters.emplace_back(name, std::string(static_cast<const char*>(value))); break;
      case ParameterType::kInt: to->parameters.emplace_back(name, *static_cast<const int64_t*>(value)); break;
      case ParameterType::kBool: to->parameters.emplace_back(name, *static_cast<const bool*>(value)); break;
      case ParameterType::kDouble: to->parameters.emplace_back(name, *static_cast<const double*>(value)); break;
      case ParameterType::kBytes: break;  // A size would be needed; the API has none for responses.
    }
  }
  return status;
}

void ReadResponse(const TritonApi& api, TRITONSERVER_InferenceResponse* from, Response* to) {
  to->status = api.Read(api.InferenceResponseError(from));
  if (!to->status.ok()) return;
  const char* model = nullptr;
  to->status = api.Take(api.InferenceResponseModel(from, &model, &to->version));
  if (model != nullptr) to->model = model;
  uint32_t count = 0;
  if (to->status.ok()) to->status = api.Take(api.InferenceResponseOutputCount(from, &count));
  if (to->status.ok()) to->outputs.resize(count);
  for (uint32_t i = 0; to->status.ok() && i < count; ++i) to->status = ReadOutput(api, from, i, &to->outputs[i]);
  if (to->status.ok()) to->status = ReadParameters(api, from, to);
}

// Notes what Triton said about a call and forgets the call when that was the last word.
std::shared_ptr<EventQueue> Note(uint64_t id, const std::shared_ptr<Call>& call, bool released, bool final) {
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  call->released |= released;
  // A response after the FINAL one has no place in the stream any more.
  std::shared_ptr<EventQueue> queue = call->final ? nullptr : call->queue;
  call->final |= final;
  if (call->released && call->final && call->submitted) {
    registry.calls.erase(id);
    registry.ended.notify_all();
  }
  return queue;
}

void OnRelease(TRITONSERVER_InferenceRequest*, uint32_t flags, void* userp) {
  if ((flags & kRequestReleaseAll) == 0) return;
  const uint64_t id = FromUserp(userp);
  if (const std::shared_ptr<Call> call = Find(id)) Note(id, call, true, false);
}

// Nobody reads an error here, and making a status of it could fail for lack of memory.
void Discard(const TritonApi& api, TRITONSERVER_InferenceResponse* response) {
  TRITONSERVER_Error* error = api.InferenceResponseDelete(response);
  if (error != nullptr) api.ErrorDelete(error);
}

// On Triton's thread, which does not expect an exception.
void OnResponse(TRITONSERVER_InferenceResponse* response, uint32_t flags, void* userp) {
  const uint64_t id = FromUserp(userp);
  const std::shared_ptr<Call> call = Find(id);
  if (call == nullptr) {
    if (response != nullptr) Discard(ApiOfUserp(userp), response);
    return;
  }
  Response event;
  event.call = id;
  event.final = (flags & kResponseFinal) != 0;
  event.empty = response == nullptr;
  if (response != nullptr) {
    Status status = Catching([&] {
      ReadResponse(*call->api, response, &event);
      return Status();
    });
    if (!status.ok()) {
      event.outputs.clear();
      event.status = std::move(status);
    }
    Discard(*call->api, response);
  }
  const std::shared_ptr<EventQueue> queue = Note(id, call, false, event.final);
  if (queue != nullptr) queue->Push(std::move(event));
}

// Enters the call under a fresh number and gives the callbacks their userp.
void* Enter(const std::shared_ptr<Call>& call, uint64_t* id) {
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  *id = registry.next++;
  registry.calls[*id] = call;
  size_t index = 0;
  while (index < registry.apis.size() && registry.apis[index] != call->api) ++index;
  if (index == registry.apis.size()) registry.apis.push_back(call->api);
  return ToUserp(*id, index);
}

void Forget(uint64_t id) {
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  registry.calls.erase(id);
  registry.ended.notify_all();
}

}  // namespace

Status Submit(const std::shared_ptr<Server>& server, std::shared_ptr<EventQueue> queue, RequestSpec spec,
              uint64_t* id) {
  const TritonApi& api = server->api();
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  Status status = GetAllocator(&api, &allocator);
  if (!status.ok()) return status;
  const auto call = std::make_shared<Call>();
  call->server = server;
  call->api = &api;
  call->queue = std::move(queue);
  call->spec = std::move(spec);

  status = server->Use([&](TRITONSERVER_Server* triton) -> Status {
    Status built = api.Take(
        api.InferenceRequestNew(&call->request, triton, call->spec.model.c_str(), call->spec.version));
    if (built.ok()) built = FillRequest(api, call->request, call->spec);
    if (!built.ok()) return built;
    void* userp = Enter(call, id);
    built = api.Take(api.InferenceRequestSetReleaseCallback(call->request, OnRelease, userp));
    if (built.ok()) {
      built = api.Take(api.InferenceRequestSetResponseCallback(call->request, allocator, const_cast<TritonApi*>(&api),
                                                               OnResponse, userp));
    }
    // On success the request is Triton's until the release callback; on failure it is still ours.
    if (built.ok()) built = api.Take(api.ServerInferAsync(triton, call->request, nullptr));
    if (!built.ok()) Forget(*id);
    return built;
  });
  if (!status.ok()) return status;

  // The last response may have come before ServerInferAsync returned; the request had to live until now.
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  call->submitted = true;
  if (call->released && call->final) {
    registry.calls.erase(*id);
    registry.ended.notify_all();
  }
  return {};
}

void Cancel(uint64_t id) {
  const std::shared_ptr<Call> call = Find(id);
  if (call == nullptr) return;
  // An error here means that the request is not running any more, which is what was wanted.
  call->api->Take(call->api->InferenceRequestCancel(call->request));
}

void Abandon(uint64_t id) {
  Cancel(id);
  std::shared_ptr<Call> call;
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  const auto found = registry.calls.find(id);
  if (found == registry.calls.end()) return;
  call = found->second;
  call->queue = nullptr;
  // Once released the request is ours, and a dead stub will never send FINAL: keeping it would pin the model.
  call->final = true;
  if (call->released) {
    registry.calls.erase(found);
    registry.ended.notify_all();
  }
}

void AbandonDead(uint64_t id) {
  const std::shared_ptr<Call> call = Find(id);
  if (call == nullptr) return;
  call->childDied = true;
  Abandon(id);
  DropFactory(call->request);
}

void AbandonDeadOrphans(const std::string& model) {
  std::vector<uint64_t> ids;
  {
    Registry& registry = GetRegistry();
    const std::lock_guard<std::mutex> lock(registry.mutex);
    for (const auto& [id, call] : registry.calls) {
      if (call->queue == nullptr && call->spec.model == model) ids.push_back(id);
    }
  }
  for (const uint64_t id : ids) AbandonDead(id);
}

void AbandonAll(const EventQueue* queue) {
  std::vector<uint64_t> ids;
  {
    Registry& registry = GetRegistry();
    const std::lock_guard<std::mutex> lock(registry.mutex);
    for (const auto& [id, call] : registry.calls) {
      if (call->queue.get() == queue) ids.push_back(id);
    }
  }
  for (const uint64_t id : ids) Abandon(id);
}

size_t LiveCalls() {
  Registry& registry = GetRegistry();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  return registry.calls.size();
}

void CancelAll() {
  std::vector<uint64_t> ids;
  {
    Registry& registry = GetRegistry();
    const std::lock_guard<std::mutex> lock(registry.mutex);
    for (const auto& [id, call] : registry.calls) {
      if (call->submitted) ids.push_back(id);
    }
  }
  for (const uint64_t id : ids) Cancel(id);
}

bool WaitForCalls(uint32_t milliseconds) {
  Registry& registry = GetRegistry();
  std::unique_lock<std::mutex> lock(registry.mutex);
  return registry.ended.wait_for(lock, std::chrono::milliseconds(milliseconds),
                                 [&] { return registry.calls.empty(); });
}

}  // namespace tritonode
