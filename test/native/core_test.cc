// The Node-free core against the stand-in library, one case for each argument: a case is a process of its own, because a
// process has one library, one host and one exit.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "../../native/triton/call.h"
#include "../../native/process/executor.h"
#include "../../native/process/host.h"
#include "../../native/triton/library.h"
#include "../../native/process/reaper.h"
#include "check.h"
#include "support.h"

namespace fs = std::filesystem;
using namespace tritonode;

namespace punica {
#include "../../native/punica/ahead.inl"
}

namespace {

void Libraries() {
  const TritonApi* api = nullptr;
  Status status = OpenTriton("/nowhere/libtritonserver.so", "", &api);
  CHECK(status.code() == "LIBRARY" && status.message().find("/nowhere/libtritonserver.so") != std::string::npos);
  status = OpenTriton(StandIn(), "/nowhere", &api);
  CHECK(status.code() == "LIBRARY");
  status = OpenTriton(directoryOfLibraries + "/libstand_in_partial.so", "", &api);
  CHECK(status.code() == "LIBRARY");
  CHECK(status.message().find("TRITONSERVER_ServerMetrics is missing") != std::string::npos);
  CHECK(OpenTriton(StandIn(), "", &api).ok());
  const TritonApi* again = nullptr;
  CHECK(OpenTriton(StandIn(), "", &again).ok() && again == api);
  CHECK(api->InferenceRequestSetDoubleParameter == nullptr);
}

void Questions() {
  const std::shared_ptr<Server> server = StartServer();
  bool yes = false;
  CHECK(server->IsLive(&yes).ok() && yes);
  CHECK(server->IsReady(&yes).ok() && yes);
  std::string text;
  CHECK(server->Metadata(&text).ok() && text == R"({"name":"stand-in"})");
  CHECK(server->Metrics(&text).ok() && text == "nv_up 1\n");
  Status status = server->ModelMetadata("unknown", -1, &text);
  CHECK(status.code() == "NOT_FOUND" && status.message() == "unknown model");
  CHECK(server->LoadModel("broken", "{}", {{"1/model.py", "pass"}}).code() == "INTERNAL");
  CHECK(server->LoadModel("m", "{}", {{"1/model.py", "pass"}}).ok());
  CHECK(server->IsModelReady("m", -1, &yes).ok() && yes);
  CHECK(server->UnloadModel("m", false).ok());
  CHECK(server->UnloadModel("m", false).code() == "NOT_FOUND");
  CHECK(server->LoadModel("m", "", {}).ok());
  CHECK(server->Stop(1).ok());
  CHECK(server->Stop(1).code() == "STATE");
  CHECK(server->IsLive(&yes).code() == "UNAVAILABLE");
  CHECK(Live("servers") == 0 && NothingLives());

  const TritonApi* api = nullptr;
  CHECK(OpenTriton(StandIn(), "", &api).ok());
  ServerOptions options;
  options.backendDirectory = "/refused";
  std::shared_ptr<Server> refused;
  CHECK(Server::Start(*api, options, &refused).message() == "a bad directory" && refused == nullptr);
  CHECK(NothingLives());
}

void Calls() {
  const std::shared_ptr<Server> server = StartServer();
  {
    Consumer consumer;
    std::vector<uint64_t> streams;
    for (int i = 0; i < 200; ++i) streams.push_back(Send(server, consumer, "stream", std::to_string(i)));
    const uint64_t echo = Send(server, consumer, "echo", "");
    const uint64_t error = Send(server, consumer, "error");
    for (size_t i = 0; i < streams.size(); ++i) {
      CHECK(Eventually([&] { return consumer.Ended(streams[i]); }));
      const std::vector<Response> all = consumer.Of(streams[i]);
      CHECK(all.size() == 11 && all[10].empty);
      for (size_t k = 0; k < 10; ++k) CHECK(all[k].outputs[0].name == std::to_string(i) && !all[k].final);
    }
    CHECK(Eventually([&] { return consumer.Ended(echo) && consumer.Ended(error); }));
    CHECK(consumer.Of(echo).size() == 1 && consumer.Of(echo)[0].outputs[0].name.empty());
    CHECK(consumer.Of(error).back().status.code() == "INTERNAL" && consumer.Of(error).back().status.message() == "no");

    uint64_t none = 0;
    CHECK(Submit(server, consumer.queue, Spec("refused"), &none).code() == "UNAVAILABLE");
    CHECK(Submit(server, consumer.queue, Spec("unknown"), &none).code() == "NOT_FOUND");
    RequestSpec with_double = Spec("echo");
    with_double.parameters = {{"x", 0.5}};
    CHECK(Submit(server, consumer.queue, std::move(with_double), &none).code() == "UNSUPPORTED");
    CHECK(Eventually([] { return LiveCalls() == 0 && NothingLives(); }));
  }
  CHECK(server->Stop(1).ok());
}

// Late, twice, out of order, before the submission returns: the stream ends once, and everything is freed.
void Misbehaviour() {
  const std::shared_ptr<Server> server = StartServer();
  {
    Consumer consumer;
    std::map<std::string, std::vector<uint64_t>> calls;
    for (int round = 0; round < 50; ++round) {
      for (const char* how : {"twice", "reordered", "synchronous"}) calls[how].push_back(Send(server, consumer, how));
    }
    const std::map<std::string, size_t> expected = {{"twice", 1}, {"reordered", 1}, {"synchronous", 2}};
    for (const auto& [how, each] : calls) {
      for (const uint64_t call : each) CHECK(Eventually([&] { return consumer.Ended(call); }));
    }
    CHECK(Eventually([] { return LiveCalls() == 0 && NothingLives(); }));
    for (const auto& [how, each] : calls) {
      for (const uint64_t call : each) CHECK(consumer.Of(call).size() == expected.at(how));
    }
    Cancel(calls["twice"][0]);
    Abandon(calls["twice"][0]);
    Cancel(123456789);
  }
  CHECK(server->Stop(1).ok());
}

void Cancelling() {
  const std::shared_ptr<Server> server = StartServer();
  {
    Consumer consumer;
    std::vector<uint64_t> calls;
    for (int i = 0; i < 20; ++i) calls.push_back(Send(server, consumer, "endless"));
    // Several threads at once, while responses come and the calls end.
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (const uint64_t call : calls) Cancel(call);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const uint64_t call : calls) {
      CHECK(Eventually([&] { return consumer.Ended(call); }));
      CHECK(consumer.Of(call).back().status.code() == "CANCELLED");
    }
    CHECK(Eventually([] { return LiveCalls() == 0 && NothingLives(); }));
  }
  CHECK(server->Stop(1).ok());
}

// An environment ends while its requests run: they are cancelled, what still comes is dropped, all is freed.
void Teardown() {
  const std::shared_ptr<Server> server = StartServer();
  for (int round = 0; round < 10; ++round) {
    auto consumer = std::make_unique<Consumer>();
    Consumer other;
    for (const char* how : {"endless", "late", "dead", "stream", "twice"}) Send(server, *consumer, how);
    const uint64_t survivor = Send(server, other, "late");
    const std::shared_ptr<EventQueue> queue = consumer->queue;
    queue->Close();
    AbandonAll(queue.get());
    consumer.reset();
    CHECK(Eventually([&] { return other.Ended(survivor); }));
    CHECK(other.Of(survivor).size() == 2);
  }
  CHECK(Eventually([] { return LiveCalls() == 0 && NothingLives(); }));
  CHECK(server->Stop(1).ok());
}

// A dead stub never sends FINAL. Abandoning frees the request, and stopping works.
void DeadStub() {
  const std::shared_ptr<Server> server = StartServer();
  {
    Consumer consumer;
    std::vector<uint64_t> calls;
    for (int i = 0; i < 64; ++i) calls.push_back(Send(server, consumer, "dead"));
    CHECK(!WaitForCalls(20));
    CHECK(LiveCalls() == 64);
    for (const uint64_t call : calls) Abandon(call);
    CHECK(Eventually([] { return LiveCalls() == 0 && NothingLives(); }));
    CHECK(WaitForCalls(0));
  }
  CHECK(server->Stop(1).ok());
}

// A load that hangs holds up neither the stop nor the other calls.
void HangingLoad() {
  const std::shared_ptr<Server> server = StartServer();
  std::atomic<bool> done{false};
  CHECK(RunBlocking([&] {
    server->LoadModel("hanging", "", {});
    done = true;
  }));
  CHECK(Eventually([] { return Live("hanging loads") == 1; }));
  bool live = false;
  CHECK(server->IsLive(&live).ok() && live);
  CHECK(server->Stop(1).code() == "UNAVAILABLE");
  CHECK(Live("servers") == 1);
  CHECK(Eventually([&] { return done.load(); }));
}

void Queue() {
  std::atomic<int> wakes{0};
  EventQueue queue([&] { ++wakes; });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) queue.Push(Response());
    });
  }
  size_t seen = 0;
  CHECK(Eventually([&] {
    seen += queue.Drain().size();
    return seen == 4000;
  }));
  for (std::thread& thread : threads) thread.join();
  CHECK(wakes <= 4000);
  // One wake-up for however much is pushed between two drains.
  wakes = 0;
  for (int i = 0; i < 10; ++i) queue.Push(Response());
  CHECK(wakes == 1);
  queue.Drain();
  // A flood of log lines is bounded and counted.
  for (int i = 0; i < 100; ++i) queue.Push(LogLine{std::string(size_t{1} << 20, 'x')});
  std::vector<Event> events = queue.Drain();
  CHECK(events.size() == 5);
  CHECK(std::get<LogLine>(events.back()).text.find("96 log lines dropped") != std::string::npos);
  queue.Push(Response());
  queue.Close();
  CHECK(!queue.Push(Response()) && queue.closed() && queue.Drain().empty());
}

void Executor() {
  std::atomic<int> count{0};
  for (int i = 0; i < 200; ++i) CHECK(RunBlocking([&] { ++count; }));
  CHECK(Eventually([&] { return count == 200; }));
  // Jobs that block each other all run at once.
  std::atomic<int> inside{0};
  for (int i = 0; i < 16; ++i) {
    CHECK(RunBlocking([&] {
      ++inside;
      Eventually([&] { return inside == 16; });
      ++count;
    }));
  }
  CHECK(Eventually([&] { return count == 216; }));
  CHECK(inside == 16);
}

void WatchingChildren() {
  const std::string directory = MakeDirectory();
  std::shared_ptr<ChildMonitor> monitor;
  CHECK(ChildMonitor::Start(directory + "/log", directory + "/missing", &monitor).code() == "SYSTEM");
  fs::remove(directory + "/log");
  CHECK(ChildMonitor::Start(directory + "/log", directory + "/children", &monitor).ok());
  {
    Consumer consumer;
    monitor->Subscribe(consumer.queue);
    std::ofstream log(directory + "/log");
    log << "one\ntwo\nth" << std::flush;
    CHECK(Eventually([&] { return consumer.Lines().size() == 2; }));
    log << "ree\n" << std::flush;
    CHECK(Eventually([&] { return consumer.Lines().size() == 3 && consumer.Lines()[2] == "three"; }));

    const pid_t pid = fork();
    if (pid == 0) {
      pause();
      _exit(0);
    }
    const std::string name = std::to_string(pid);
    std::ofstream(directory + "/children/." + name) << "model\nregion\n";
    fs::rename(directory + "/children/." + name, directory + "/children/" + name);
    CHECK(Eventually([&] { return consumer.Changes().size() == 1; }));
    CHECK(consumer.Changes()[0].running && consumer.Changes()[0].arguments == "model\nregion\n");
    CHECK(monitor->Children() == std::vector<int>{pid});
    {
      Consumer late;
      monitor->Subscribe(late.queue);
      CHECK(Eventually([&] { return late.Changes().size() == 1 && late.Changes()[0].pid == pid; }));
      monitor->Unsubscribe(late.queue.get());
    }
    kill(pid, SIGKILL);
    CHECK(Eventually([&] { return consumer.Changes().size() == 2 && !consumer.Changes()[1].running; }));
    waitpid(pid, nullptr, 0);
    CHECK(!fs::exists(directory + "/children/" + name));
    CHECK(!monitor->Watch(pid, "") && monitor->Children().empty());
    monitor->Unsubscribe(consumer.queue.get());
  }
  monitor->Stop();
  fs::remove_all(directory);
}

void ReaperCleans() {
  const std::string directory = MakeDirectory();
  const std::string prefix = "tritonode_test_" + std::to_string(getpid()) + "_";
  std::ofstream("/dev/shm/" + prefix + "region") << "x";
  Reaper kept;
  CHECK(kept.Start(directory, prefix).ok());
  kept.Release(false);
  CHECK(fs::exists(directory));
  // A folder of Triton's, and the link to it (own_files.h).
  const std::string parent = MakeDirectory();
  const std::string made = parent + "/python_env_a1B2c3";
  fs::create_directory(made);
  fs::create_directory_symlink(made, directory + "/python_env_a1B2c3");
  // Links that somebody else might have made: to a folder of another name, and to another user's.
  const std::string named = parent + "/photos";
  fs::create_directory(named);
  fs::create_directory_symlink(named, directory + "/python_env_d4E5f6");
  const std::string foreign = parent + "/python_env_g7H8i9";
  fs::create_directory(foreign);
  fs::create_directory_symlink(foreign, directory + "/python_env_g7H8i9");
  const bool mayGiveAway = chown(foreign.c_str(), 65534, 65534) == 0;
  std::ofstream("/dev/shm/sem." + prefix + "semaphore") << "x";

  Reaper reaper;
  CHECK(reaper.Start(directory, prefix).ok());
  const pid_t pid = fork();
  if (pid == 0) {
    const std::string variable = "TRITONODE_PRIVATE_DIR=" + directory;
    std::vector<char*> environment = {const_cast<char*>(variable.c_str()), nullptr};
    std::vector<char*> arguments = {const_cast<char*>("sleep"), const_cast<char*>("60"), nullptr};
    execve("/bin/sleep", arguments.data(), environment.data());
    _exit(1);
  }
  CHECK(Eventually([&] {
    std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
    std::string name;
    return std::getline(file, name) && name == "sleep";
  }));
  reaper.Release(true);
  int status = 0;
  CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  CHECK(!fs::exists(directory) && !fs::exists("/dev/shm/" + prefix + "region"));
  CHECK(!fs::exists(made) && !fs::exists("/dev/shm/sem." + prefix + "semaphore"));
  CHECK(fs::exists(named) && fs::exists(foreign) == mayGiveAway);
  fs::remove_all(parent);
}


// Ten environments start and leave in any order; there is one server, it stops with the last and starts anew.
void Sharing() {
  Host& host = Host::Get();
  for (int round = 0; round < 5; ++round) {
    std::vector<std::thread> threads;
    std::atomic<int> starts{0};
    std::atomic<int> stops{0};
    for (int i = 0; i < 10; ++i) {
      threads.emplace_back([&, i] {
        Consumer consumer;
        Acquired acquired;
        CHECK(host.Acquire(consumer.queue, &acquired).ok());
        if (acquired.mustStart) {
          ++starts;
          CHECK(host.Start(consumer.queue, HostOptions()).ok());
        } else {
          CHECK(acquired.description == "described");
        }
        const std::shared_ptr<Server> server = host.server();
        CHECK(server != nullptr);
        const uint64_t call = Send(server, consumer, i % 2 == 0 ? "stream" : "endless");
        if (i % 2 == 0) {
          CHECK(Eventually([&] { return consumer.Ended(call); }));
        } else {
          consumer.queue->Close();
          AbandonAll(consumer.queue.get());
        }
        bool stopped = false;
        if (i % 3 == 0) {
          host.ReleaseAll(consumer.queue);
          stopped = host.server() == nullptr;
        } else {
          CHECK(host.Release(consumer.queue, &stopped).ok());
          stops += stopped ? 1 : 0;
        }
        CHECK(host.Release(consumer.queue, &stopped).ok() && !stopped);
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(starts >= 1 && host.server() == nullptr && Live("servers") == 0 && NothingLives());
  }
  // A start that fails gives the turn to the next one.
  Consumer first;
  Acquired acquired;
  CHECK(host.Acquire(first.queue, &acquired).ok() && acquired.mustStart);
  StartOptions broken = HostOptions();
  broken.library = "/nowhere.so";
  CHECK(host.Start(first.queue, broken).code() == "LIBRARY");
  CHECK(!fs::exists(broken.privateDirectory));
  CHECK(host.Start(first.queue, HostOptions()).code() == "STATE");
  Acquired next;
  CHECK(host.Acquire(first.queue, &next).ok() && next.mustStart);
  bool stopped = false;
  CHECK(host.Release(first.queue, &stopped).ok() && !stopped);
}

// A server whose child died is left behind after a second, without an error.
void StopAfterDeath() {
  Host& host = Host::Get();
  Consumer consumer;
  Acquired acquired;
  CHECK(host.Acquire(consumer.queue, &acquired).ok());
  CHECK(host.Start(consumer.queue, HostOptions()).ok());
  CHECK(RunBlocking([server = host.server()] { server->LoadModel("hanging", "", {}); }));
  CHECK(Eventually([] { return Live("hanging loads") == 1; }));
  host.NoteStuck();
  bool stopped = false;
  CHECK(host.Release(consumer.queue, &stopped).ok() && stopped);
}

// Only what is used of B is fetched ahead, all of it, and about kAhead bytes of use before it is needed.
void FetchingAhead() {
  const auto lines = [](int64_t rows, int64_t stride, int64_t used) {
    std::vector<int64_t> all;
    punica::for_each_line_ahead(rows, stride, used, [&](int64_t at) { all.push_back(at); });
    return all;
  };
  CHECK(lines(8, 128, 0).empty());
  // Rank 8 of 64 in bf16: one line of each row, 256 rows of 16 bytes ahead.
  const std::vector<int64_t> padded = lines(8, 128, 16);
  CHECK(padded.size() == 8);
  for (size_t row = 0; row < padded.size(); ++row) CHECK(padded[row] == (256 + static_cast<int64_t>(row)) * 128);
  // 40 of 64 ranks in float32: three lines of each row's four.
  for (const int64_t at : lines(16, 256, 160)) CHECK(at % 256 <= 128);
  CHECK(lines(16, 256, 160).size() == 16 * 3);
  // Rows without padding lie in one piece, as do rows that share a line.
  CHECK(lines(8, 128, 128).size() == 16 && lines(8, 128, 128).front() == punica::kAhead);
  CHECK(lines(8, 32, 16).size() == 4);
}

const Cases cases = {
    {"libraries", Libraries},   {"questions", Questions},     {"calls", Calls},
    {"misbehaviour", Misbehaviour}, {"cancelling", Cancelling}, {"teardown", Teardown},
    {"dead_stub", DeadStub},    {"hanging_load", HangingLoad}, {"queue", Queue},
    {"executor", Executor},     {"children", WatchingChildren}, {"reaper", ReaperCleans},
    {"fetching_ahead", FetchingAhead},
     {"sharing", Sharing},         {"stop_after_death", StopAfterDeath},
};

}  // namespace

int main(int argc, char** argv) { return RunCase(argc, argv, cases); }
