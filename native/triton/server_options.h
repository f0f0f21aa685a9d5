// What a server is started with. The members are Triton's option names (TRITONSERVER_ServerOptionsSet*); the defaults
// are this package's, not those of the C API, which polls its repositories and retries failed loads.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tritonode {

struct ServerOptions {
  std::string serverId = "tritonode";
  std::string backendDirectory;
  std::string repoAgentDirectory;
  std::vector<std::string> modelRepositories;
  // {backend, setting, value}; an empty backend name means every backend.
  std::vector<std::array<std::string, 3>> backendConfig;

  std::string logFile;
  bool logInfo = true;
  bool logWarn = true;
  bool logError = true;
  int logVerbose = 0;

  uint32_t exitTimeoutSeconds = 30;
  uint32_t bufferManagerThreads = 0;
  uint32_t modelLoadThreads = 2;

  uint64_t pinnedMemoryPoolBytes = 0;
  std::vector<std::pair<int, uint64_t>> cudaMemoryPoolBytes;
  double minComputeCapability = 6.0;

  bool strictReadiness = true;
  bool metrics = true;
  bool gpuMetrics = false;
  bool cpuMetrics = false;
  uint64_t metricsIntervalMs = 2000;
};

}  // namespace tritonode
