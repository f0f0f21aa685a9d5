#include "instance_threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <typeinfo>
#include <utility>
#include <vector>

namespace tritonode {
namespace {

using State = std::thread::_State;

// As much as a stop of Triton may take; a request that still runs has a reference to its model, so none is cut short.
constexpr std::chrono::seconds kLimit{10};

struct InstanceThread {
  const void* model;
  // False from the start: a new thread has its instance's warm-up before it.
  std::atomic<bool> waiting{false};
};

struct Threads {
  std::mutex mutex;
  std::vector<std::shared_ptr<InstanceThread>> all;
};

Threads& threads() {
  // Leaked on purpose: Triton's threads outlive static destructors.
  static Threads& threads = *new Threads;
  return threads;
}

thread_local InstanceThread* self = nullptr;

// The first value that the function of a std::thread has captured: what follows the pointer to its table of functions.
const char* FirstCapture(const State& state) {
  const char* captured = nullptr;
  std::memcpy(&captured, reinterpret_cast<const char*>(&state) + sizeof(void*), sizeof(captured));
  return captured;
}

// The model of a TritonBackendThread, whose members are: const std::string name_; const int nice_; const int32_t
// device_id_; TritonModel* model_ (src/backend_model_instance.h, r24.04 to r26.06).
const void* ModelOf(const char* backendThread) {
  const void* model = nullptr;
  std::memcpy(&model, backendThread + sizeof(std::string) + 2 * sizeof(int32_t), sizeof(model));
  return model;
}

class RunInstance final : public State {
 public:
  RunInstance(std::unique_ptr<State> inner, std::shared_ptr<InstanceThread> thread)
      : inner_(std::move(inner)), thread_(std::move(thread)) {}

  void _M_run() override {
    self = thread_.get();
    inner_->_M_run();
    self = nullptr;
    Threads& t = threads();
    const std::lock_guard<std::mutex> lock(t.mutex);
    std::erase(t.all, thread_);
  }

 private:
  std::unique_ptr<State> inner_;
  std::shared_ptr<InstanceThread> thread_;
};

class DestroyModel final : public State {
 public:
  explicit DestroyModel(std::unique_ptr<State> inner) : inner_(std::move(inner)) {}

  void _M_run() override {
    const void* model = FirstCapture(*inner_);
    const auto deadline = std::chrono::steady_clock::now() + kLimit;
    while (AnyBusy(model) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    inner_->_M_run();
  }

 private:
  static bool AnyBusy(const void* model) {
    Threads& t = threads();
    const std::lock_guard<std::mutex> lock(t.mutex);
    return std::any_of(t.all.begin(), t.all.end(),
                       [&](const auto& thread) { return thread->model == model && !thread->waiting; });
  }

  std::unique_ptr<State> inner_;
};

}  // namespace

void StartThread(std::thread* thread, std::unique_ptr<State> state, void (*depend)()) {
  const char* runs = typeid(*state).name();
  if (std::strstr(runs, "CreateBackendThread") != nullptr) {
    auto instance = std::make_shared<InstanceThread>(ModelOf(FirstCapture(*state)));
    {
      Threads& t = threads();
      const std::lock_guard<std::mutex> lock(t.mutex);
      t.all.push_back(instance);
    }
    state = std::make_unique<RunInstance>(std::move(state), std::move(instance));
  } else if (std::strstr(runs, "ModelDeleter") != nullptr) {
    state = std::make_unique<DestroyModel>(std::move(state));
  }
  TritonThreadFunctions().start(thread, std::move(state), depend);
}

void WaitForWork(std::condition_variable* condition, std::unique_lock<std::mutex>& lock) {
  InstanceThread* const instance = self;
  if (instance != nullptr) instance->waiting = true;
  TritonThreadFunctions().wait(condition, lock);
  if (instance != nullptr) instance->waiting = false;
}

ThreadFunctions& TritonThreadFunctions() {
  static ThreadFunctions functions;
  return functions;
}

}  // namespace tritonode
