// What one JavaScript environment (the main thread or a worker) holds in the addon. Everything here is used on that
// environment's thread only; other threads know its EventQueue.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <unordered_map>

#include "../common/event_queue.h"
#include "../common/status.h"

namespace tritonode {

class Delivery;

class Environment {
 public:
  // Made when the addon is loaded into an environment; ends with it.
  static void Attach(Napi::Env env);
  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }
  ~Environment() = default;

  // `deliver` gets the events of every stream in one flat array per wake-up (see deliver.h).
  void Initialize(Napi::Function deliver, bool isMainThread);
  const std::shared_ptr<EventQueue>& queue() const { return queue_; }

  // Runs `work` on a thread of its own and settles the returned promise with what `convert` makes of it. The event loop
  // stays alive until then, except with `hold` false: for work that may never end.
  Napi::Promise Run(std::function<Status()> work, std::function<Napi::Value(Napi::Env)> convert, bool hold = true);
  void Hold();
  void Unhold();

  struct CallOptions {
    // BYTES outputs are wanted undecoded.
    bool raw = false;
    // Does not keep the event loop alive, as any other pending request in Node does.
    bool background = false;
  };
  void CallStarted(uint64_t call, CallOptions options);
  void CallEnded(uint64_t call);

 private:
  explicit Environment(Napi::Env env);
  static void OnWake(napi_env env, napi_value callback, void* context, void* data);
  static void OnTeardown(void* self);
  void DeliverAll();
  void DeliverOne(Event& event, Delivery& delivery);

  Napi::Env env_;
  napi_threadsafe_function wake_ = nullptr;
  std::shared_ptr<EventQueue> queue_;
  Napi::FunctionReference deliver_;
  std::unordered_map<uint64_t, CallOptions> calls_;
  size_t holds_ = 0;
  bool isMainThread_ = false;
};

// A JavaScript Error with `code` and `message` of the status; src/transport makes a typed error of it.
Napi::Error ToError(Napi::Env env, const Status& status);

}  // namespace tritonode
