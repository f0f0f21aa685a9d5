// Stands for libtritonserver in the test of the repair busy-instance: the thread of an instance and the thread that
// destroys a model are made and named as in Triton's core (src/backend_model_instance.cc, model_lifecycle.cc).
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::atomic<int> emptyLists, busyNow, destroyed;

struct Model {
  virtual ~Model() = default;
};

struct BackendThread {
  BackendThread(std::string name, Model* model) : name_(std::move(name)), model_(model) {}

  static std::unique_ptr<BackendThread> CreateBackendThread(Model* model) {
    auto* raw = new BackendThread("instance", model);
    raw->instances_ = 1;
    raw->thread_ = std::thread([raw]() { raw->Run(); });
    return std::unique_ptr<BackendThread>(raw);
  }
  void Enqueue(int work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_.push_back(work);
    changed_.notify_one();
  }
  ~BackendThread() {
    if (instances_ == 0) ++emptyLists;
    Enqueue(-1);
    thread_.join();
  }

  const std::string name_;
  const int nice_ = 0;
  const int32_t device_id_ = 0;
  Model* model_;
  // Triton has a list here, without a lock, and the destructor reads its last entry.
  std::atomic<int> instances_{0};
  std::thread thread_;

 private:
  void Run() {
    for (int work = 0; work >= 0;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        while (work_.empty()) changed_.wait(lock);
        work = work_.front();
        work_.pop_front();
      }
      --instances_;
      ++busyNow;
      std::this_thread::sleep_for(std::chrono::milliseconds(work > 0 ? work : 0));
      ++instances_;
      --busyNow;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<int> work_;
};

struct TritonModel : Model {
  std::unique_ptr<BackendThread> thread = BackendThread::CreateBackendThread(this);
};

struct ModelDeleter {
  void operator()(Model* model) {
    std::thread destroy([model]() {
      delete model;
      ++destroyed;
    });
    destroy.detach();
  }
};

}  // namespace

EXPORT void* VictimLoad() { return new TritonModel; }
EXPORT void VictimWork(void* model, int milliseconds) { static_cast<TritonModel*>(model)->thread->Enqueue(milliseconds); }
EXPORT void VictimUnload(void* model) { ModelDeleter()(static_cast<TritonModel*>(model)); }
EXPORT int VictimBusyNow() { return busyNow; }
EXPORT int VictimDestroyed() { return destroyed; }
EXPORT int VictimEmptyLists() { return emptyLists; }
