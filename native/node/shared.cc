#include "shared.h"

#include <string>
#include <utility>

#include "../process/host.h"
#include "../triton/server.h"
#include "../process/shared_resources.h"
#include "environment.h"

namespace tritonode {
namespace {

using Info = const Napi::CallbackInfo&;

// What a name starts with says how to take it down.
const std::string kModel = "model/";
const std::string kRepository = "repository/";

std::string TextAt(Info info, size_t index) {
  if (!info[index].IsString()) throw Napi::TypeError::New(info.Env(), "expected a string");
  return info[index].As<Napi::String>().Utf8Value();
}

// Runs `ask`, which answers yes or no, on a thread of its own.
Napi::Value AskBool(Info info, std::function<bool(const std::shared_ptr<EventQueue>&, const std::string&)> ask) {
  Environment& environment = Environment::Of(info.Env());
  auto answer = std::make_shared<bool>(false);
  return environment.Run(
      [queue = environment.queue(), name = TextAt(info, 0), answer, ask = std::move(ask)] {
        *answer = ask(queue, name);
        return Status();
      },
      [answer](Napi::Env env) -> Napi::Value { return Napi::Boolean::New(env, *answer); });
}

// acquireShared(name, key): Promise<string | undefined>: its description, or undefined: the caller sets it up.
Napi::Value Acquire(Info info) {
  Environment& environment = Environment::Of(info.Env());
  auto acquired = std::make_shared<AcquiredResource>();
  return environment.Run(
      [queue = environment.queue(), name = TextAt(info, 0), key = TextAt(info, 1), acquired] {
        return SharedResources::Get().Acquire(queue, name, key, acquired.get());
      },
      [acquired](Napi::Env env) -> Napi::Value {
        if (acquired->mustSetUp) return env.Undefined();
        return Napi::String::New(env, acquired->description);
      });
}

// retakeShared(name): Promise<boolean>
Napi::Value Retake(Info info) {
  return AskBool(info, [](const auto& user, const auto& name) { return SharedResources::Get().Retake(user, name); });
}

// releaseShared(name): Promise<boolean>
Napi::Value Release(Info info) {
  return AskBool(info, [](const auto& user, const auto& name) { return SharedResources::Get().Release(user, name); });
}

// settleShared(name, description | undefined)
void Settle(Info info) {
  const bool ready = info[1].IsString();
  SharedResources::Get().Settle(Environment::Of(info.Env()).queue(), TextAt(info, 0), ready,
                                ready ? TextAt(info, 1) : std::string());
}

}  // namespace

void AddSharedExports(Napi::Env env, Napi::Object exports) {
  exports.Set("acquireShared", Napi::Function::New(env, Acquire, "acquireShared"));
  exports.Set("retakeShared", Napi::Function::New(env, Retake, "retakeShared"));
  exports.Set("releaseShared", Napi::Function::New(env, Release, "releaseShared"));
  exports.Set("settleShared", Napi::Function::New(env, Settle, "settleShared"));
}

void ReleaseShared(const std::shared_ptr<EventQueue>& user) {
  SharedResources::Get().ReleaseAll(user, [](const std::string& name) {
    const std::shared_ptr<Server> server = Host::Get().server();
    if (server == nullptr) return;
    // A failure leaves it loaded until the server stops, which costs memory and nothing else.
    if (name.starts_with(kModel)) server->UnloadModel(name.substr(kModel.size()), false);
    if (name.starts_with(kRepository)) server->UnregisterRepository(name.substr(kRepository.size()));
  });
}

}  // namespace tritonode
