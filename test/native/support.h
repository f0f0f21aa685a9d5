// What the tests of the core share: the stand-in library, a consumer that plays a JavaScript thread, options for a host.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../../native/triton/call.h"
#include "../../native/process/host.h"
#include "../../native/triton/library.h"
#include "check.h"

namespace tritonode {

namespace fs = std::filesystem;

inline std::string StandIn() { return directoryOfLibraries + "/libstand_in.so"; }

inline int Live(const char* what) {
  static const auto live =
      reinterpret_cast<int (*)(const char*)>(dlsym(dlopen(StandIn().c_str(), RTLD_NOW | RTLD_LOCAL), "StandInLive"));
  return live(what);
}

inline bool NothingLives() {
  return Live("requests") == 0 && Live("responses") == 0 && Live("errors") == 0 && Live("messages") == 0;
}

// Plays the JavaScript thread: drains when woken.
class Consumer {
 public:
  Consumer() {
    queue = std::make_shared<EventQueue>([this] {
      const std::lock_guard<std::mutex> lock(mutex_);
      woken_ = true;
      changed_.notify_one();
    });
    thread_ = std::thread([this] { Loop(); });
  }
  ~Consumer() {
    queue->Close();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
      changed_.notify_one();
    }
    thread_.join();
  }

  std::vector<Response> Of(uint64_t call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Response> found;
    for (Response& response : responses_[call]) {
      Response copy;
      copy.final = response.final;
      copy.empty = response.empty;
      copy.status = response.status;
      for (OutputTensor& output : response.outputs) {
        OutputTensor tensor;
        tensor.name.assign(reinterpret_cast<char*>(output.data.get()), output.byteSize);
        copy.outputs.push_back(std::move(tensor));
      }
      found.push_back(std::move(copy));
    }
    return found;
  }

  bool Ended(uint64_t call) {
    const std::vector<Response> all = Of(call);
    return !all.empty() && all.back().final;
  }

  std::vector<std::string> Lines() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lines_;
  }

  std::vector<ChildChange> Changes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return changes_;
  }

  std::shared_ptr<EventQueue> queue;

 private:
  void Loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return woken_ || ending_; });
      if (ending_) return;
      woken_ = false;
      lock.unlock();
      std::vector<Event> events = queue->Drain();
      lock.lock();
      for (Event& event : events) {
        if (auto* response = std::get_if<Response>(&event)) responses_[response->call].push_back(std::move(*response));
        if (auto* line = std::get_if<LogLine>(&event)) lines_.push_back(line->text);
        if (auto* change = std::get_if<ChildChange>(&event)) changes_.push_back(*change);
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
  bool ending_ = false;
  std::map<uint64_t, std::vector<Response>> responses_;
  std::vector<std::string> lines_;
  std::vector<ChildChange> changes_;
  std::thread thread_;
};

inline RequestSpec Spec(const std::string& model, const std::string& text = "text") {
  RequestSpec spec;
  spec.model = model;
  spec.id = "id";
  spec.inputs.push_back({"in", DataType::kUint8, {static_cast<int64_t>(text.size())}, text});
  spec.parameters = {{"a", std::string("b")}, {"c", int64_t{1}}, {"d", true}};
  return spec;
}

inline std::shared_ptr<Server> StartServer() {
  const TritonApi* api = nullptr;
  CHECK(OpenTriton(StandIn(), "", &api).ok());
  std::shared_ptr<Server> server;
  ServerOptions options;
  options.backendDirectory = "/none";
  CHECK(Server::Start(*api, options, &server).ok());
  return server;
}

inline uint64_t Send(const std::shared_ptr<Server>& server, Consumer& consumer, const std::string& model,
              const std::string& text = "text") {
  uint64_t call = 0;
  CHECK(Submit(server, consumer.queue, Spec(model, text), &call).ok());
  return call;
}

inline std::string MakeDirectory() {
  std::string directory = (fs::temp_directory_path() / "tritonode-test-XXXXXX").string();
  CHECK(mkdtemp(directory.data()) != nullptr);
  fs::create_directory(directory + "/children");
  return directory;
}

inline StartOptions HostOptions() {
  StartOptions options;
  options.library = StandIn();
  options.privateDirectory = MakeDirectory();
  options.shmPrefix = "tritonode_test_" + std::to_string(getpid()) + "_";
  options.description = "described";
  options.server.backendDirectory = "/none";
  options.server.exitTimeoutSeconds = 1;
  return options;
}

}  // namespace tritonode
