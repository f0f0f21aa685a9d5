#include "environment.h"

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "../triton/call.h"
#include "../process/executor.h"
#include "../process/host.h"
#include "deliver.h"
#include "shared.h"

namespace tritonode {

Napi::Error ToError(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, status.code()));
  return error;
}

void Environment::Attach(Napi::Env env) { env.SetInstanceData(new Environment(env)); }

Environment::Environment(Napi::Env env) : env_(env) {
  napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "tritonode"), 0, 1, nullptr,
                                      nullptr, this, OnWake, &wake_);
  if (status != napi_ok) throw Napi::Error::New(env, "tritonode: napi_create_threadsafe_function failed");
  napi_unref_threadsafe_function(env, wake_);
  queue_ = std::make_shared<EventQueue>(
      [wake = wake_] { napi_call_threadsafe_function(wake, nullptr, napi_tsfn_nonblocking); });
  // After the threadsafe function's own hook, so before it at teardown (hooks run last in, first out): from then on no
  // thread touches the function.
  napi_add_env_cleanup_hook(env, OnTeardown, this);
}

void Environment::Initialize(Napi::Function deliver, bool isMainThread) {
  deliver_ = Napi::Persistent(deliver);
  isMainThread_ = isMainThread;
}

void Environment::OnTeardown(void* data) {
  auto* self = static_cast<Environment*>(data);
  self->queue_->Close();
  AbandonAll(self->queue_.get());
  napi_release_threadsafe_function(self->wake_, napi_tsfn_abort);
  // The main thread's end is the process's end: stopping the server would race with exit() and could take as long as a
  // model needs to unload. The reaper ends the children and removes what is left.
  if (self->isMainThread_) {
    Host::Get().PrepareForExit(false);
    return;
  }
  const auto release = [queue = self->queue_] {
    ReleaseShared(queue);
    Host::Get().ReleaseAll(queue);
  };
  // Where no thread can be had the worker's end waits for it: otherwise nobody would ever stop the server.
  if (!RunBlocking(release)) release();
}

void Environment::OnWake(napi_env env, napi_value, void* context, void*) {
  if (env == nullptr) return;
  static_cast<Environment*>(context)->DeliverAll();
}

void Environment::DeliverAll() {
  std::vector<Event> events = queue_->Drain();
  try {
    const Napi::HandleScope scope(env_);
    Delivery delivery(env_);
    Napi::Error first;
    // Each for itself: what can't be turned into JavaScript must not take the other streams' last words with it. An
    // error is thrown when all are through, because Node-API does nothing more while one is pending.
    const auto attempt = [&](const auto& body) {
      try {
        body();
      } catch (const Napi::Error& error) {
        if (first.IsEmpty()) first = error;
      } catch (const std::exception& error) {
        if (first.IsEmpty()) first = Napi::Error::New(env_, error.what());
      }
    };
    for (Event& event : events) attempt([&] { DeliverOne(event, delivery); });
    if (!delivery.empty() && !deliver_.IsEmpty()) attempt([&] { deliver_.Call({delivery.array()}); });
    // Node reports it: as a warning, or as an uncaught exception where its options say so.
    if (!first.IsEmpty()) first.ThrowAsJavaScriptException();
  } catch (const std::exception&) {
    // A worker that is being terminated takes no more JavaScript, exceptions included; its teardown follows.
  }
}

void Environment::DeliverOne(Event& event, Delivery& delivery) {
  if (auto* task = std::get_if<Task>(&event)) {
    (*task)(this);
  } else if (auto* response = std::get_if<Response>(&event)) {
    const auto call = calls_.find(response->call);
    if (call == calls_.end()) return;
    const bool raw = call->second.raw;
    if (response->final) CallEnded(response->call);
    try {
      delivery.Add(*response, raw);
    } catch (const std::exception& error) {
      Response failed;
      failed.call = response->call;
      failed.final = response->final;
      failed.status = {"INTERNAL", std::string("a response can't be turned into JavaScript: ") + error.what()};
      delivery.Add(failed, false);
    }
  } else if (auto* line = std::get_if<LogLine>(&event)) {
    delivery.Add(*line);
  } else if (auto* change = std::get_if<ChildChange>(&event)) {
    delivery.Add(*change);
  }
}

void Environment::Hold() {
  if (holds_++ == 0) napi_ref_threadsafe_function(env_, wake_);
}

void Environment::Unhold() {
  if (--holds_ == 0) napi_unref_threadsafe_function(env_, wake_);
}

void Environment::CallStarted(uint64_t call, CallOptions options) {
  calls_.emplace(call, options);
  if (!options.background) Hold();
}

void Environment::CallEnded(uint64_t call) {
  const auto found = calls_.find(call);
  if (found == calls_.end()) return;
  const bool held = !found->second.background;
  calls_.erase(found);
  if (held) Unhold();
}

Napi::Promise Environment::Run(std::function<Status()> work, std::function<Napi::Value(Napi::Env)> convert, bool hold) {
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env_);
  Napi::Promise promise = deferred->Promise();
  auto status = std::make_shared<Status>();
  // Made here, on the way in: when the work is done there may be no memory left to say so.
  Task settle = [deferred, hold, convert = std::move(convert), status](void* context) {
    auto* self = static_cast<Environment*>(context);
    if (hold) self->Unhold();
    try {
      if (!status->ok()) {
        deferred->Reject(ToError(self->env_, *status).Value());
      } else {
        deferred->Resolve(convert(self->env_));
      }
    } catch (const Napi::Error& error) {
      deferred->Reject(error.Value());
    }
  };
  auto job = [queue = queue_, status, work = std::move(work), settle = std::move(settle)]() mutable {
    *status = Catching(work);
    // Dropped when the environment is gone: nobody is left to settle the promise for.
    queue->Push(std::move(settle));
  };
  if (hold) Hold();
  if (!RunBlocking(std::move(job))) {
    if (hold) Unhold();
    deferred->Reject(ToError(env_, {"SYSTEM", "cannot start a thread"}).Value());
  }
  return promise;
}

}  // namespace tritonode
