// One Triton server: start, models, questions about them, stop. Everything here blocks except IsLive/IsReady, so callers
// use a thread of their own.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server_options.h"
#include "../common/status.h"
#include "api.h"

namespace tritonode {

// A file that overrides the model's folder ("file:<path inside the model's folder>").
struct ModelFile {
  std::string path;
  std::string bytes;
};

class Server : public std::enable_shared_from_this<Server> {
 public:
  static Status Start(const TritonApi& api, const ServerOptions& options, std::shared_ptr<Server>* server);
  // A server that was not stopped is leaked: deleting it here could block for the whole exit timeout, or crash while
  // responses are alive.
  ~Server() = default;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Ends the server. Waits up to Triton's exit timeout for models to unload. On an error Triton keeps the server, and a
  // second attempt would free it twice, so there is none: later calls return the first outcome.
  Status Stop(uint32_t exitTimeoutSeconds);

  Status IsLive(bool* live);
  Status IsReady(bool* ready);
  Status IsModelReady(const std::string& model, int64_t version, bool* ready);
  // The answers below are Triton's own JSON.
  Status Metadata(std::string* json);
  Status ModelMetadata(const std::string& model, int64_t version, std::string* json);
  Status ModelConfig(const std::string& model, int64_t version, std::string* json);
  Status ModelStatistics(const std::string& model, int64_t version, std::string* json);
  Status RepositoryIndex(bool readyOnly, std::string* json);
  // Prometheus text format.
  Status Metrics(std::string* text);

  // `config` is the model configuration as JSON, or empty to use the folder's. With files, Triton takes the model from
  // them and needs a config too.
  Status LoadModel(const std::string& model, const std::string& config, const std::vector<ModelFile>& files);
  Status UnloadModel(const std::string& model, bool dependents);
  Status RegisterRepository(const std::string& path);
  Status UnregisterRepository(const std::string& path);

  const TritonApi& api() const { return api_; }

  // Runs `body` with the server, keeping Stop from deleting it meanwhile. UNAVAILABLE once Stop has begun.
  Status Use(const std::function<Status(TRITONSERVER_Server*)>& body);

 private:
  Server(const TritonApi& api, TRITONSERVER_Server* server) : api_(api), server_(server) {}
  Status Ask(std::string* json, const std::function<TRITONSERVER_Error*(TRITONSERVER_Server*, TRITONSERVER_Message**)>&);

  Status Load(TRITONSERVER_Server* server, const std::string& model, const std::string& config,
              const std::vector<ModelFile>& files);
  // Whether no model is left.
  bool UnloadAll(std::chrono::steady_clock::time_point deadline);

  const TritonApi& api_;
  TRITONSERVER_Server* server_;
  std::mutex mutex_;
  std::set<std::string> loaded_;
  std::atomic<bool> loadFailed_{false};
  // Callers inside Triton right now; the top bit says that Stop has begun.
  std::atomic<uint32_t> users_{0};
  static constexpr uint32_t kStopping = 1u << 31;
};

}  // namespace tritonode
