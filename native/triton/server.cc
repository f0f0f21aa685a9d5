#include "server.h"

#include <chrono>
#include <thread>

namespace tritonode {
namespace {

// Applies options in turn until one fails.
class OptionSetter {
 public:
  OptionSetter(const TritonApi& api, TRITONSERVER_ServerOptions* options) : api_(api), options_(options) {}

  template <typename Function, typename... Arguments>
  void operator()(Function function, Arguments... arguments) {
    if (status_.ok()) status_ = api_.Take(function(options_, arguments...));
  }
  const Status& status() const { return status_; }

 private:
  const TritonApi& api_;
  TRITONSERVER_ServerOptions* options_;
  Status status_;
};

Status Apply(const TritonApi& api, const ServerOptions& from, TRITONSERVER_ServerOptions* to) {
  OptionSetter set(api, to);
  set(api.ServerOptionsSetServerId, from.serverId.c_str());
  for (const std::string& path : from.modelRepositories) {
    set(api.ServerOptionsSetModelRepositoryPath, path.c_str());
  }
  // The C API's defaults poll the repository for ever and refuse a model without a complete config.pbtxt.
  set(api.ServerOptionsSetModelControlMode, ModelControl::kExplicit);
  set(api.ServerOptionsSetStrictModelConfig, false);
  set(api.ServerOptionsSetExitOnError, false);
  // Uninitialised memory in every release up to 26.06 unless set.
  set(api.ServerOptionsSetModelLoadRetryCount, 0u);
  set(api.ServerOptionsSetEnablePeerAccess, false);
  set(api.ServerOptionsSetStrictReadiness, from.strictReadiness);
  set(api.ServerOptionsSetExitTimeout, from.exitTimeoutSeconds);
  set(api.ServerOptionsSetBufferManagerThreadCount, from.bufferManagerThreads);
  set(api.ServerOptionsSetModelLoadThreadCount, from.modelLoadThreads);
  set(api.ServerOptionsSetPinnedMemoryPoolByteSize, from.pinnedMemoryPoolBytes);
  for (const auto& [gpu, bytes] : from.cudaMemoryPoolBytes) {
    set(api.ServerOptionsSetCudaMemoryPoolByteSize, gpu, bytes);
  }
  set(api.ServerOptionsSetMinSupportedComputeCapability, from.minComputeCapability);
  set(api.ServerOptionsSetBackendDirectory, from.backendDirectory.c_str());
  if (!from.repoAgentDirectory.empty()) {
    set(api.ServerOptionsSetRepoAgentDirectory, from.repoAgentDirectory.c_str());
  }
  for (const auto& [backend, setting, value] : from.backendConfig) {
    set(api.ServerOptionsSetBackendConfig, backend.c_str(), setting.c_str(), value.c_str());
  }
  if (!from.logFile.empty()) set(api.ServerOptionsSetLogFile, from.logFile.c_str());
  set(api.ServerOptionsSetLogInfo, from.logInfo);
  set(api.ServerOptionsSetLogWarn, from.logWarn);
  set(api.ServerOptionsSetLogError, from.logError);
  set(api.ServerOptionsSetLogVerbose, from.logVerbose);
  set(api.ServerOptionsSetLogFormat, LogFormat::kDefault);
  set(api.ServerOptionsSetMetrics, from.metrics);
  set(api.ServerOptionsSetGpuMetrics, from.metrics && from.gpuMetrics);
  set(api.ServerOptionsSetCpuMetrics, from.metrics && from.cpuMetrics);
  set(api.ServerOptionsSetMetricsInterval, from.metricsIntervalMs);
  return set.status();
}

}  // namespace

Status Server::Start(const TritonApi& api, const ServerOptions& from, std::shared_ptr<Server>* server) {
  TRITONSERVER_ServerOptions* options = nullptr;
  Status status = api.Take(api.ServerOptionsNew(&options));
  if (!status.ok()) return status;
  TRITONSERVER_Server* made = nullptr;
  status = Apply(api, from, options);
  if (status.ok()) status = api.Take(api.ServerNew(&made, options));
  api.Take(api.ServerOptionsDelete(options));
  if (status.ok()) server->reset(new Server(api, made));
  return status;
}

Status Server::Use(const std::function<Status(TRITONSERVER_Server*)>& body) {
  // Counts a caller until it returns or throws.
  struct User {
    std::atomic<uint32_t>& users;
    const uint32_t before = users.fetch_add(1);
    ~User() { users.fetch_sub(1); }
  };
  const User user{users_};
  if ((user.before & kStopping) != 0) return {"UNAVAILABLE", "the server is stopping or stopped"};
  return Catching([&] { return body(server_); });
}

Status Server::Stop(uint32_t exitTimeoutSeconds) {
  if ((users_.fetch_or(kStopping) & kStopping) != 0) return {"STATE", "the server was stopped before"};
  // A load that hangs inside Triton (its stub can't start) still uses the server, which must not be deleted then.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(exitTimeoutSeconds);
  while (users_.load() != kStopping) {
    if (std::chrono::steady_clock::now() >= deadline) {
      return {"UNAVAILABLE", "a call into Triton did not return within the exit timeout; the server was left behind"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const bool empty = UnloadAll(deadline);
  // Triton 24.10 counts a model whose reload has failed as one that is still to be unloaded, for ever
  // (model_lifecycle.cc, background_models_), and gives up after the timeout, without deleting the server.
  const bool miscounts = empty && loadFailed_;
  if (miscounts) exitTimeoutSeconds = 0;
  if (api_.ServerSetExitTimeout != nullptr) api_.Take(api_.ServerSetExitTimeout(server_, exitTimeoutSeconds));
  const Status status = api_.Take(api_.ServerDelete(server_));
  return miscounts ? Status() : status;
}

// Triton's own stop checks once a second whether all models are unloaded. Here they are unloaded first, with a check every
// few milliseconds, so that Triton's first check finds none.
bool Server::UnloadAll(std::chrono::steady_clock::time_point deadline) {
  std::set<std::string> models;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    models.swap(loaded_);
  }
  for (const std::string& model : models) api_.Take(api_.ServerUnloadModel(server_, model.c_str()));
  while (!models.empty() && std::chrono::steady_clock::now() < deadline) {
    TRITONSERVER_Message* message = nullptr;
    if (!api_.Take(api_.ServerModelIndex(server_, 0, &message)).ok()) return false;
    const char* base = nullptr;
    size_t size = 0;
    const bool read = api_.Take(api_.MessageSerializeToJson(message, &base, &size)).ok();
    const std::string index = read ? std::string(base, size) : std::string();
    api_.Take(api_.MessageDelete(message));
    if (index.find("\"READY\"") == std::string::npos && index.find("\"UNLOADING\"") == std::string::npos) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return models.empty();
}

Status Server::IsLive(bool* live) {
  return Use([&](TRITONSERVER_Server* server) { return api_.Take(api_.ServerIsLive(server, live)); });
}

Status Server::IsReady(bool* ready) {
  return Use([&](TRITONSERVER_Server* server) { return api_.Take(api_.ServerIsReady(server, ready)); });
}

Status Server::IsModelReady(const std::string& model, int64_t version, bool* ready) {
  return Use([&](TRITONSERVER_Server* server) {
    return api_.Take(api_.ServerModelIsReady(server, model.c_str(), version, ready));
  });
}

Status Server::Ask(std::string* json,
                   const std::function<TRITONSERVER_Error*(TRITONSERVER_Server*, TRITONSERVER_Message**)>& question) {
  return Use([&](TRITONSERVER_Server* server) -> Status {
    TRITONSERVER_Message* message = nullptr;
    Status status = api_.Take(question(server, &message));
    if (!status.ok()) return status;
    const char* base = nullptr;
    size_t size = 0;
    status = api_.Take(api_.MessageSerializeToJson(message, &base, &size));
    if (status.ok()) json->assign(base, size);
    api_.Take(api_.MessageDelete(message));
    return status;
  });
}

Status Server::Metadata(std::string* json) {
  return Ask(json, [&](auto* server, auto** message) { return api_.ServerMetadata(server, message); });
}

Status Server::ModelMetadata(const std::string& model, int64_t version, std::string* json) {
  return Ask(json, [&](auto* server, auto** message) {
    return api_.ServerModelMetadata(server, model.c_str(), version, message);
  });
}

Status Server::ModelConfig(const std::string& model, int64_t version, std::string* json) {
  // The last argument but one is the version of the configuration's own format; there is only 1.
  return Ask(json, [&](auto* server, auto** message) {
    return api_.ServerModelConfig(server, model.c_str(), version, 1, message);
  });
}

Status Server::ModelStatistics(const std::string& model, int64_t version, std::string* json) {
  return Ask(json, [&](auto* server, auto** message) {
    return api_.ServerModelStatistics(server, model.c_str(), version, message);
  });
}

Status Server::RepositoryIndex(bool readyOnly, std::string* json) {
  return Ask(json, [&](auto* server, auto** message) {
    return api_.ServerModelIndex(server, readyOnly ? 1 : 0, message);
  });
}

Status Server::Metrics(std::string* text) {
  return Use([&](TRITONSERVER_Server* server) -> Status {
    TRITONSERVER_Metrics* metrics = nullptr;
    Status status = api_.Take(api_.ServerMetrics(server, &metrics));
    if (!status.ok()) return status;
    const char* base = nullptr;
    size_t size = 0;
    status = api_.Take(api_.MetricsFormatted(metrics, MetricFormat::kPrometheus, &base, &size));
    if (status.ok()) text->assign(base, size);
    api_.Take(api_.MetricsDelete(metrics));
    return status;
  });
}

Status Server::LoadModel(const std::string& model, const std::string& config, const std::vector<ModelFile>& files) {
  const Status status = Use([&](TRITONSERVER_Server* server) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      loaded_.insert(model);
    }
    return Load(server, model, config, files);
  });
  if (!status.ok()) loadFailed_ = true;
  return status;
}

Status Server::Load(TRITONSERVER_Server* server, const std::string& model, const std::string& config,
                    const std::vector<ModelFile>& files) {
  if (config.empty() && files.empty()) return api_.Take(api_.ServerLoadModel(server, model.c_str()));
  struct Parameters {
    const TritonApi& api;
    std::vector<const TRITONSERVER_Parameter*> list = {};
    ~Parameters() {
      for (const auto* parameter : list) api.ParameterDelete(const_cast<TRITONSERVER_Parameter*>(parameter));
    }
  } parameters{api_};
  parameters.list.reserve(files.size() + 1);
  if (!config.empty()) parameters.list.push_back(api_.ParameterNew("config", ParameterType::kString, config.c_str()));
  for (const ModelFile& file : files) {
    const std::string name = "file:" + file.path;
    parameters.list.push_back(api_.ParameterBytesNew(name.c_str(), file.bytes.data(), file.bytes.size()));
  }
  return api_.Take(api_.ServerLoadModelWithParameters(server, model.c_str(), parameters.list.data(),
                                                      parameters.list.size()));
}

Status Server::UnloadModel(const std::string& model, bool dependents) {
  return Use([&](TRITONSERVER_Server* server) {
    return api_.Take((dependents ? api_.ServerUnloadModelAndDependents : api_.ServerUnloadModel)(server, model.c_str()));
  });
}

Status Server::RegisterRepository(const std::string& path) {
  return Use([&](TRITONSERVER_Server* server) {
    return api_.Take(api_.ServerRegisterModelRepository(server, path.c_str(), nullptr, 0));
  });
}

Status Server::UnregisterRepository(const std::string& path) {
  return Use([&](TRITONSERVER_Server* server) {
    return api_.Take(api_.ServerUnregisterModelRepository(server, path.c_str()));
  });
}

}  // namespace tritonode
