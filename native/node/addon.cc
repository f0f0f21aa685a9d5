// The functions that src/native/binding.ts calls. Everything that may block returns a promise and runs on a thread of
// its own; infer, cancel and abandon return at once.
#include <fcntl.h>
#include <napi.h>

#include <memory>
#include <string>
#include <utility>

#include "../triton/call.h"
#include "../process/host.h"
#include "../process/owner_lock.h"
#include "../process/warm_children.h"
#include "../python_backend/children.h"
#include "../python_backend/repairs.h"
#include "../triton/server.h"
#include "environment.h"
#include "event_table.h"
#include "marshal.h"
#include "shared.h"

namespace tritonode {
namespace {

using Info = const Napi::CallbackInfo&;

std::string StringAt(Info info, size_t index) {
  if (!info[index].IsString()) throw Napi::TypeError::New(info.Env(), "expected a string");
  return info[index].As<Napi::String>().Utf8Value();
}

int64_t IntegerAt(Info info, size_t index, int64_t otherwise) {
  if (info[index].IsUndefined()) return otherwise;
  if (!info[index].IsNumber()) throw Napi::TypeError::New(info.Env(), "expected a number");
  return info[index].As<Napi::Number>().Int64Value();
}

bool BooleanAt(Info info, size_t index) {
  return info[index].IsBoolean() && info[index].As<Napi::Boolean>().Value();
}

Napi::Object ObjectAt(Info info, size_t index) {
  if (!info[index].IsObject()) throw Napi::TypeError::New(info.Env(), "expected an object");
  return info[index].As<Napi::Object>();
}

Status NotRunning() { return {"STATE", "the server is not running"}; }

// Asks the running server on a thread of its own.
template <typename Result>
Napi::Value Ask(Info info, std::function<Status(Server&, Result*)> question,
                std::function<Napi::Value(Napi::Env, const Result&)> convert) {
  auto result = std::make_shared<Result>();
  return Environment::Of(info.Env())
      .Run(
          [result, question = std::move(question)]() -> Status {
            const std::shared_ptr<Server> server = Host::Get().server();
            return server == nullptr ? NotRunning() : question(*server, result.get());
          },
          [result, convert = std::move(convert)](Napi::Env env) { return convert(env, *result); });
}

Napi::Value AskText(Info info, std::function<Status(Server&, std::string*)> question) {
  return Ask<std::string>(info, std::move(question), [](Napi::Env env, const std::string& text) -> Napi::Value {
    return Napi::String::New(env, text);
  });
}

Napi::Value AskBool(Info info, std::function<Status(Server&, bool*)> question) {
  return Ask<bool>(info, std::move(question),
                   [](Napi::Env env, const bool& value) -> Napi::Value { return Napi::Boolean::New(env, value); });
}

Napi::Value Command(Info info, std::function<Status(Server&)> command) {
  return Ask<bool>(
      info, [command = std::move(command)](Server& server, bool*) { return command(server); },
      [](Napi::Env env, const bool&) { return env.Undefined(); });
}

// initialize(deliver, isMainThread)
void Initialize(Info info) {
  if (!info[0].IsFunction()) throw Napi::TypeError::New(info.Env(), "expected a function");
  Environment::Of(info.Env()).Initialize(info[0].As<Napi::Function>(), BooleanAt(info, 1));
}

// acquire(): Promise<string | undefined>: the description of the running server, or undefined: the caller starts it.
Napi::Value Acquire(Info info) {
  Environment& environment = Environment::Of(info.Env());
  auto acquired = std::make_shared<Acquired>();
  return environment.Run([queue = environment.queue(), acquired] { return Host::Get().Acquire(queue, acquired.get()); },
                         [acquired](Napi::Env env) -> Napi::Value {
                           if (acquired->mustStart) return env.Undefined();
                           return Napi::String::New(env, acquired->description);
                         });
}

// start(options): Promise<void>
Napi::Value Start(Info info) {
  Environment& environment = Environment::Of(info.Env());
  return environment.Run([queue = environment.queue(),
                          options = ToStartOptions(ObjectAt(info, 0))] { return Host::Get().Start(queue, options); },
                         [](Napi::Env env) { return env.Undefined(); });
}

// release(): Promise<boolean>: whether the server was stopped by this.
Napi::Value Release(Info info) {
  Environment& environment = Environment::Of(info.Env());
  auto stopped = std::make_shared<bool>(false);
  return environment.Run(
      [queue = environment.queue(), stopped] { return Host::Get().Release(queue, stopped.get()); },
      [stopped](Napi::Env env) -> Napi::Value { return Napi::Boolean::New(env, *stopped); });
}

Napi::Value IsLive(Info info) {
  return AskBool(info, [](Server& server, bool* live) { return server.IsLive(live); });
}

Napi::Value IsReady(Info info) {
  return AskBool(info, [](Server& server, bool* ready) { return server.IsReady(ready); });
}

// isModelReady(name, version)
Napi::Value IsModelReady(Info info) {
  return AskBool(info, [model = StringAt(info, 0), version = IntegerAt(info, 1, -1)](Server& server, bool* ready) {
    return server.IsModelReady(model, version, ready);
  });
}

Napi::Value Metadata(Info info) {
  return AskText(info, [](Server& server, std::string* json) { return server.Metadata(json); });
}

using ModelQuestion = Status (Server::*)(const std::string&, int64_t, std::string*);

template <ModelQuestion question>
Napi::Value AskAboutModel(Info info) {
  return AskText(info, [model = StringAt(info, 0), version = IntegerAt(info, 1, -1)](Server& server, std::string* json) {
    return (server.*question)(model, version, json);
  });
}

// repositoryIndex(readyOnly)
Napi::Value RepositoryIndex(Info info) {
  return AskText(info, [ready = BooleanAt(info, 0)](Server& server, std::string* json) {
    return server.RepositoryIndex(ready, json);
  });
}

Napi::Value Metrics(Info info) {
  return AskText(info, [](Server& server, std::string* text) { return server.Metrics(text); });
}

// loadModel(name, config | undefined, files | undefined). Does not keep the event loop alive (see hold): Triton 24.10
// never comes back from a load whose stub can't start.
Napi::Value LoadModel(Info info) {
  std::string config = info[1].IsUndefined() ? std::string() : StringAt(info, 1);
  return Environment::Of(info.Env())
      .Run(
          [model = StringAt(info, 0), config = std::move(config), files = ToModelFiles(info[2])]() -> Status {
            const std::shared_ptr<Server> server = Host::Get().server();
            return server == nullptr ? NotRunning() : server->LoadModel(model, config, files);
          },
          [](Napi::Env env) { return env.Undefined(); }, false);
}

// hold(), unhold(): keep the event loop alive in between; they count.
void Hold(Info info) { Environment::Of(info.Env()).Hold(); }
void Unhold(Info info) { Environment::Of(info.Env()).Unhold(); }

// unloadModel(name, dependents)
Napi::Value UnloadModel(Info info) {
  return Command(info, [model = StringAt(info, 0), dependents = BooleanAt(info, 1)](Server& server) {
    return server.UnloadModel(model, dependents);
  });
}

Napi::Value RegisterRepository(Info info) {
  return Command(info, [path = StringAt(info, 0)](Server& server) { return server.RegisterRepository(path); });
}

Napi::Value UnregisterRepository(Info info) {
  return Command(info, [path = StringAt(info, 0)](Server& server) { return server.UnregisterRepository(path); });
}

// infer(request): number
Napi::Value Infer(Info info) {
  Environment& environment = Environment::Of(info.Env());
  const Napi::Object object = ObjectAt(info, 0);
  RequestSpec spec = ToRequestSpec(object);
  const Environment::CallOptions options{object.Get("raw").ToBoolean(), object.Get("background").ToBoolean()};
  const std::shared_ptr<Server> server = Host::Get().server();
  if (server == nullptr) throw ToError(info.Env(), NotRunning());
  uint64_t call = 0;
  const Status status = Submit(server, environment.queue(), std::move(spec), &call);
  if (!status.ok()) throw ToError(info.Env(), status);
  environment.CallStarted(call, options);
  return Napi::Number::New(info.Env(), static_cast<double>(call));
}

// cancel(call): responses go on until the final one.
void CancelCall(Info info) { Cancel(static_cast<uint64_t>(IntegerAt(info, 0, 0))); }

// abandon(call): the child that served it is dead. No response comes after this returns.
void AbandonCall(Info info) {
  const auto call = static_cast<uint64_t>(IntegerAt(info, 0, 0));
  AbandonDead(call);
  if (!IsActive(Repair::kLostReplies)) Host::Get().NoteStuck();
  Environment::Of(info.Env()).CallEnded(call);
}

// watchProcess(pid, arguments): boolean. The process's end is delivered like that of an announced child.
Napi::Value WatchProcess(Info info) {
  const std::shared_ptr<ChildMonitor> monitor = Host::Get().monitor();
  if (monitor == nullptr) throw ToError(info.Env(), NotRunning());
  const int64_t pid = IntegerAt(info, 0, 0);
  const std::string arguments = info[1].IsUndefined() ? std::string() : StringAt(info, 1);
  return Napi::Boolean::New(info.Env(), pid > 0 && monitor->Watch(static_cast<int>(pid), arguments));
}

// holdWarmChild(key), releaseWarmChild(key): somebody wants one in between; they count.
void HoldWarmChild(Info info) { WarmChildren::Get().Hold(Environment::Of(info.Env()).queue(), StringAt(info, 0)); }
void ReleaseWarmChild(Info info) { WarmChildren::Get().Release(Environment::Of(info.Env()).queue(), StringAt(info, 0)); }

// startWarmChild(key): Promise<number>: the pid of a child that has imported everything. Does not keep the event loop
// alive (see hold).
Napi::Value StartWarmChild(Info info) {
  Environment& environment = Environment::Of(info.Env());
  // Copied on this thread: on the main thread nothing changes it meanwhile.
  std::vector<std::string> variables;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) variables.emplace_back(*variable);
  auto pid = std::make_shared<int>(0);
  return environment.Run(
      [queue = environment.queue(), key = StringAt(info, 0), variables = std::move(variables), pid]() -> Status {
        if (!IsActive(Repair::kWarmChild)) return {"UNSUPPORTED", "this Python backend of Triton takes no warm child"};
        return WarmChildren::Get().Start(queue, key, variables, pid.get());
      },
      [pid](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *pid); }, false);
}

// warmChildEnded(key): Promise<void>: resolves when there is none (any more): it was taken, or ended.
Napi::Value WarmChildEnded(Info info) {
  Environment& environment = Environment::Of(info.Env());
  return environment.Run(
      [queue = environment.queue(), key = StringAt(info, 0)]() -> Status {
        WarmChildren::Get().WaitForEnd(queue, key);
        return {};
      },
      [](Napi::Env env) { return env.Undefined(); }, false);
}

// ownerOf(lock): "lives" | "gone" | undefined: whether the process that made this lock file runs.
Napi::Value OwnerOf(Info info) {
  switch (OwnerLock::Look(StringAt(info, 0))) {
    case OwnerLock::Owner::kLives: return Napi::String::New(info.Env(), "lives");
    case OwnerLock::Owner::kGone: return Napi::String::New(info.Env(), "gone");
    case OwnerLock::Owner::kUnknown: break;
  }
  return info.Env().Undefined();
}

// endChild(pid): kills a child that is watched, with its process group.
void EndChild(Info info) {
  const std::shared_ptr<ChildMonitor> monitor = Host::Get().monitor();
  if (monitor != nullptr) monitor->End(static_cast<int>(IntegerAt(info, 0, 0)));
}

// abandonOrphans(model): the model's child is dead; its calls whose environment is gone are given up.
void AbandonOrphans(Info info) { AbandonDeadOrphans(StringAt(info, 0)); }

// allowEnd(pid): nothing is left to be done in this child; where Triton ends it, it is not asked first.
void AllowChildEnd(Info info) { AllowEnd(static_cast<pid_t>(IntegerAt(info, 0, 0))); }

// noteStuck(): a load whose child is gone does not end.
void NoteStuck(Info) { Host::Get().NoteStuck(); }

// openFifo(path): number: a descriptor to read from, for a net.Socket to own. A descriptor of fs.openSync is closed a second
// time when its worker ends, because Worker's trackUnmanagedFds does not see that a socket has closed it. By then another
// file may have that number.
Napi::Value OpenFifo(Info info) {
  const std::string path = StringAt(info, 0);
  const int descriptor = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) throw ToError(info.Env(), SystemError("cannot open " + path));
  return Napi::Number::New(info.Env(), descriptor);
}

// liveCalls(): number: requests of the whole process that Triton has not let go of; for tests of leaks.
Napi::Value CountLiveCalls(Info info) { return Napi::Number::New(info.Env(), static_cast<double>(LiveCalls())); }

Napi::Object Exports(Napi::Env env, Napi::Object exports) {
  Environment::Attach(env);
  const auto add = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("initialize", Initialize);
  add("acquire", Acquire);
  add("start", Start);
  add("release", Release);
  add("isLive", IsLive);
  add("isReady", IsReady);
  add("isModelReady", IsModelReady);
  add("metadata", Metadata);
  add("modelMetadata", AskAboutModel<&Server::ModelMetadata>);
  add("modelConfig", AskAboutModel<&Server::ModelConfig>);
  add("modelStatistics", AskAboutModel<&Server::ModelStatistics>);
  add("repositoryIndex", RepositoryIndex);
  add("metrics", Metrics);
  add("loadModel", LoadModel);
  add("hold", Hold);
  add("unhold", Unhold);
  add("unloadModel", UnloadModel);
  add("registerRepository", RegisterRepository);
  add("unregisterRepository", UnregisterRepository);
  add("infer", Infer);
  add("cancel", CancelCall);
  add("abandon", AbandonCall);
  add("watchProcess", WatchProcess);
  add("holdWarmChild", HoldWarmChild);
  add("startWarmChild", StartWarmChild);
  add("warmChildEnded", WarmChildEnded);
  add("releaseWarmChild", ReleaseWarmChild);
  add("ownerOf", OwnerOf);
  add("endChild", EndChild);
  add("abandonOrphans", AbandonOrphans);
  add("allowEnd", AllowChildEnd);
  add("noteStuck", NoteStuck);
  add("liveCalls", CountLiveCalls);
  add("openFifo", OpenFifo);
  AddSharedExports(env, exports);
  exports.Set("eventTable", EventTable(env));
  return exports;
}

}  // namespace
}  // namespace tritonode

static Napi::Object InitializeAddon(Napi::Env env, Napi::Object exports) { return tritonode::Exports(env, exports); }

NODE_API_MODULE(NODE_GYP_MODULE_NAME, InitializeAddon)
