#include "lost_replies.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend_exception.h"
#include "children.h"
#include "repairs.h"

namespace tritonode {
namespace {

// Deleted when the last thread that works with it is done.
class Factory {
 public:
  Factory(TRITONBACKEND_ResponseFactory* factory, const void* made_for) : triton(factory), request(made_for) {}
  Factory(const Factory&) = delete;
  Factory& operator=(const Factory&) = delete;
  ~Factory() { TritonFactoryFunctions().remove(triton); }

  TRITONBACKEND_ResponseFactory* const triton;
  const void* const request;
  // The child that answers the request, once it is known.
  pid_t child = 0;
};

// The numbers of factories that this thread has made for requests that are not sent yet.
thread_local std::vector<uintptr_t> unsent;

struct Factories {
  std::mutex mutex;
  std::unordered_map<uintptr_t, std::shared_ptr<Factory>> byNumber;
  std::unordered_map<const void*, uintptr_t> byRequest;
  uintptr_t last = 0;
};

Factories& factories() {
  // Leaked on purpose: Triton's threads outlive static destructors.
  static auto& factories = *new Factories;
  return factories;
}

// No object lies as low as this. What lies higher is a factory of the time before the repair was switched on.
constexpr uintptr_t kNumbers = uintptr_t{1} << 32;

bool IsNumber(TRITONBACKEND_ResponseFactory* factory) { return reinterpret_cast<uintptr_t>(factory) < kNumbers; }

std::shared_ptr<Factory> Find(TRITONBACKEND_ResponseFactory* factory) {
  Factories& f = factories();
  const std::lock_guard<std::mutex> lock(f.mutex);
  const auto found = f.byNumber.find(reinterpret_cast<uintptr_t>(factory));
  return found == f.byNumber.end() ? nullptr : found->second;
}

std::shared_ptr<Factory> Take(uintptr_t number) {
  Factories& f = factories();
  const std::lock_guard<std::mutex> lock(f.mutex);
  const auto found = f.byNumber.find(number);
  if (found == f.byNumber.end()) return nullptr;
  std::shared_ptr<Factory> taken = std::move(found->second);
  f.byNumber.erase(found);
  const auto request = f.byRequest.find(taken->request);
  if (request != f.byRequest.end() && request->second == number) f.byRequest.erase(request);
  return taken;
}

// The factory to call Triton with; null for one that was dropped.
class Use {
 public:
  explicit Use(TRITONBACKEND_ResponseFactory* factory) : triton_(factory) {
    if (!IsNumber(factory)) return;
    entry_ = Find(factory);
    triton_ = entry_ == nullptr ? nullptr : entry_->triton;
  }
  TRITONBACKEND_ResponseFactory* get() const { return triton_; }

 private:
  std::shared_ptr<Factory> entry_;
  TRITONBACKEND_ResponseFactory* triton_;
};

// What the child shares for one message, as the backend's types begin (python_backend r24.04 to r25.10, src/pb_utils.h,
// SendMessageBase and ResponseSenderBase).
struct Message {
  pthread_mutex_t mutex;
  pthread_cond_t condition;
  bool isChildsTurn;
};

// The messages that threads work on, each thread's own entry.
struct Workers {
  std::mutex mutex;
  std::set<const std::atomic<const void*>*> messages;
};

Workers& workers() {
  static auto& workers = *new Workers;
  return workers;
}

struct Worker {
  std::atomic<const void*> message{nullptr};
  Worker() {
    const std::lock_guard<std::mutex> lock(workers().mutex);
    workers().messages.insert(&message);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    const std::lock_guard<std::mutex> lock(workers().mutex);
    workers().messages.erase(&message);
  }
};

}  // namespace

FactoryFunctions& TritonFactoryFunctions() {
  static FactoryFunctions functions{};
  return functions;
}

TRITONSERVER_Error* NewFactory(TRITONBACKEND_ResponseFactory** factory, TRITONBACKEND_Request* request) {
  TRITONBACKEND_ResponseFactory* made = nullptr;
  TRITONSERVER_Error* error = TritonFactoryFunctions().create(&made, request);
  *factory = made;
  if (error != nullptr || !IsActive(Repair::kLostReplies)) return error;
  Factories& f = factories();
  const auto entry = std::make_shared<Factory>(made, request);
  const std::lock_guard<std::mutex> lock(f.mutex);
  if (++f.last >= kNumbers) f.last = 1;
  f.byNumber[f.last] = entry;
  f.byRequest[request] = f.last;
  unsent.push_back(f.last);
  *factory = reinterpret_cast<TRITONBACKEND_ResponseFactory*>(f.last);
  return nullptr;
}

TRITONSERVER_Error* DeleteFactory(TRITONBACKEND_ResponseFactory* factory) {
  if (!IsNumber(factory)) return TritonFactoryFunctions().remove(factory);
  Take(reinterpret_cast<uintptr_t>(factory));
  return nullptr;
}

TRITONSERVER_Error* SendFactoryFlags(TRITONBACKEND_ResponseFactory* factory, uint32_t flags) {
  const Use use(factory);
  // Nobody waits for the end of that request any more.
  return use.get() == nullptr ? nullptr : TritonFactoryFunctions().sendFlags(use.get(), flags);
}

TRITONSERVER_Error* IsFactoryCancelled(TRITONBACKEND_ResponseFactory* factory, bool* cancelled) {
  const Use use(factory);
  *cancelled = true;
  return use.get() == nullptr ? nullptr : TritonFactoryFunctions().isCancelled(use.get(), cancelled);
}

TRITONSERVER_Error* NewResponseFromFactory(TRITONBACKEND_Response** response, TRITONBACKEND_ResponseFactory* factory) {
  const Use use(factory);
  // The backend goes on without a response where it gets an error. Its task for the message ends with an exception.
  if (use.get() == nullptr) throw triton::backend::python::PythonBackendException("the Python child of a request is gone");
  return TritonFactoryFunctions().newResponse(response, use.get());
}

void DropFactory(const TRITONSERVER_InferenceRequest* request) {
  uintptr_t number = 0;
  {
    Factories& f = factories();
    const std::lock_guard<std::mutex> lock(f.mutex);
    const auto found = f.byRequest.find(request);
    if (found != f.byRequest.end()) number = found->second;
  }
  if (number != 0) Take(number);
}

void AssignFactories(pid_t child, bool dead) {
  if (unsent.empty()) return;
  if (!dead) {
    Factories& f = factories();
    const std::lock_guard<std::mutex> lock(f.mutex);
    for (const uintptr_t number : unsent) {
      const auto found = f.byNumber.find(number);
      if (found != f.byNumber.end()) found->second->child = child;
    }
  } else {
    for (const uintptr_t number : unsent) Take(number);
  }
  unsent.clear();
}

void DropFactoriesOf(pid_t child) {
  std::vector<uintptr_t> numbers;
  {
    Factories& f = factories();
    const std::lock_guard<std::mutex> lock(f.mutex);
    for (const auto& [number, factory] : f.byNumber) {
      if (factory->child == child) numbers.push_back(number);
    }
  }
  for (const uintptr_t number : numbers) Take(number);
}

size_t LiveFactories() {
  Factories& f = factories();
  const std::lock_guard<std::mutex> lock(f.mutex);
  return f.byNumber.size();
}

bool IsAcknowledgement(const pthread_cond_t* condition, const pthread_mutex_t* mutex) {
  return &reinterpret_cast<const Message*>(mutex)->condition == condition;
}

int WaitForAcknowledgement(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  auto* message = reinterpret_cast<Message*>(mutex);
  for (;;) {
    const timespec until = SoonFromNow();
    const int result = pthread_cond_timedwait(condition, mutex, &until);
    if (result != ETIMEDOUT) return result;
    const pid_t child = ChildAt(mutex);
    if (child == 0 || !IsDead(child)) continue;
    message->isChildsTurn = false;
    return 0;
  }
}

void NoteWork(const void* message) {
  thread_local Worker worker;
  worker.message = message;
}

bool IsAtWork(const void* address) {
  std::vector<const void*> messages;
  {
    const std::lock_guard<std::mutex> lock(workers().mutex);
    for (const auto* message : workers().messages) {
      if (const void* at = *message) messages.push_back(at);
    }
  }
  const std::string file = SharedFileAt(address);
  return std::any_of(messages.begin(), messages.end(), [&](const void* at) { return SharedFileAt(at) == file; });
}

}  // namespace tritonode
