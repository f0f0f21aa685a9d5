// Children that wait for a model, and their takeover, with a shell script in the place of the stub wrapper. One case for
// each argument, as in core_test.cc.
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../../native/process/warm_children.h"
#include "check.h"
#include "support.h"

using namespace tritonode;

namespace {

// $2 is the file with the environment; what the child is told goes into a file beside it.
constexpr const char* kScript = R"sh(#!/bin/sh
. "$2"
[ -n "$fail" ] && echo "$fail" >&4 && exit 1
[ -n "$quit" ] && exit "$quit"
echo ready >&4
cat <&3 4>&- >"$2.told.tmp" && mv "$2.told.tmp" "$2.told"
)sh";

struct Fixture {
  std::string directory = MakeDirectory();
  Consumer consumer;
  std::shared_ptr<ChildMonitor> monitor;
  std::string key = directory + "/key";
  std::vector<std::string> environment = {"PATH=/usr/bin:/bin", "A=b"};

  explicit Fixture(const std::string& settings = "") {
    for (const char* name : {"/backends", "/backends/python", "/environment"}) fs::create_directory(directory + name);
    const std::string stub = directory + "/backends/python/triton_python_backend_stub";
    std::ofstream(stub) << kScript;
    fs::permissions(stub, fs::perms::owner_all);
    std::ofstream(key) << settings << "\n";
    CHECK(ChildMonitor::Start(directory + "/log", directory + "/children", &monitor).ok());
    monitor->Subscribe(consumer.queue);
    children().Open(directory, monitor);
  }
  ~Fixture() {
    children().Close();
    monitor->Stop();
    fs::remove_all(directory);
  }
  static WarmChildren& children() { return WarmChildren::Get(); }

  Status Start(int* pid) {
    children().Hold(consumer.queue, key);
    return children().Start(consumer.queue, key, environment, pid);
  }

  ChildCommand Command() const {
    std::vector<std::string> sorted = environment;
    std::sort(sorted.begin(), sorted.end());
    return {"/somewhere", sorted,
            {"stub", "/none/model/1/model.py", "region", "1", "2", "3", "/lib", "4", "model_0_0", directory + "/backends/vllm"}};
  }
};

bool Gone(int pid) { return kill(pid, 0) != 0; }

// The command that fits is given to the child; any other is not.
void Taking() {
  Fixture fixture;
  int pid = 0;
  CHECK(fixture.Start(&pid).ok() && pid > 0);
  const ChildCommand fits = fixture.Command();
  const auto refused = [&](auto change) {
    ChildCommand command = fits;
    change(command);
    return Fixture::children().Take(command) == 0;
  };
  CHECK(refused([](auto& command) { command.environment.push_back("C=d"); }));
  CHECK(refused([](auto& command) { command.arguments.pop_back(); }));
  CHECK(refused([](auto& command) { command.arguments.clear(); }));
  CHECK(refused([](auto& command) { command.arguments[8] = "model"; }));
  CHECK(refused([](auto& command) { command.arguments[9] = "DEFAULT"; }));
  CHECK(refused([&](auto& command) { command.arguments[1] = fixture.key; }));
  std::ofstream(fixture.directory + "/environment/other") << "export X=y\n";
  CHECK(refused([](auto& command) { command.arguments[1] = "/none/other/1/model.py"; }));
  CHECK(Fixture::children().HasAny());
  CHECK(Fixture::children().Take(fits) == pid);
  CHECK(!Fixture::children().HasAny());
  CHECK(Fixture::children().Take(fits) == 0);
  CHECK(Eventually([&] { return fs::exists(fixture.key + ".told"); }));
  std::stringstream told;
  told << std::ifstream(fixture.key + ".told").rdbuf();
  std::string expected = fits.directory + '\0';
  for (const std::string& argument : fits.arguments) expected += argument + '\0';
  CHECK(told.str().substr(sizeof(uint32_t)) == expected);
  // Whoever took it reaps it.
  int status = 0;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  CHECK(Eventually([&] {
    const auto changes = fixture.consumer.Changes();
    return changes.size() == 2 && changes[0].pid == pid && changes[0].running && !changes[1].running &&
           changes[0].arguments.starts_with("/none/model/1/model.py\nregion\n");
  }));
}

// A child that can't import says why; one that says nothing has its exit code, or its signal.
void Failing() {
  const auto failure = [](const std::string& settings) {
    Fixture fixture(settings);
    int pid = 0;
    const Status status = fixture.Start(&pid);
    CHECK(Gone(pid) && !Fixture::children().HasAny());
    return status.code() + ": " + status.message();
  };
  CHECK(failure("fail='ImportError: no torch'") == "CHILD: ImportError: no torch");
  CHECK(failure("quit=7") == "CHILD: exit code 7");
  CHECK(failure("kill -9 $$") == "CHILD: signal 9");
}

// It ends with the last one who wants it, with the server, and with a user who is gone.
void Ending() {
  int pid = 0;
  {
    Fixture fixture;
    WarmChildren& children = Fixture::children();
    CHECK(fixture.Start(&pid).ok());
    int same = 0;
    CHECK(fixture.Start(&same).ok() && same == pid);
    children.Release(fixture.consumer.queue, fixture.key);
    CHECK(!Gone(pid));
    std::thread waits([&] { children.WaitForEnd(fixture.consumer.queue, fixture.key); });
    children.Release(fixture.consumer.queue, fixture.key);
    waits.join();
    CHECK(Eventually([&] { return Gone(pid); }));
    CHECK(children.Start(fixture.consumer.queue, fixture.key, fixture.environment, &pid).code() == "STATE");

    CHECK(fixture.Start(&pid).ok());
    children.ReleaseAll(fixture.consumer.queue);
    CHECK(Eventually([&] { return Gone(pid); }));

    // Killed while it waits: not taken, and another one can be started.
    CHECK(fixture.Start(&pid).ok());
    kill(pid, SIGKILL);
    CHECK(Eventually([&] { return Gone(pid); }));
    CHECK(children.Take(fixture.Command()) == 0);
    CHECK(Eventually([&] { return !children.HasAny(); }));
    CHECK(children.Start(fixture.consumer.queue, fixture.key, fixture.environment, &pid).ok());
  }
  CHECK(Gone(pid));
  CHECK(!Fixture::children().HasAny());
}

// However soon it ends after it was taken, its life is reported once.
void Dying() {
  Fixture fixture;
  std::vector<int> taken;
  for (int round = 0; round < 50; ++round) {
    int pid = 0;
    CHECK(fixture.Start(&pid).ok());
    std::atomic<bool> isTaken = false;
    std::thread kills([&] {
      while (fixture.monitor->Children().empty() && !isTaken) {
      }
      kill(pid, SIGKILL);
    });
    CHECK(Fixture::children().Take(fixture.Command()) == pid);
    isTaken = true;
    kills.join();
    CHECK(Eventually([&] { return fixture.monitor->Children().empty(); }));
    taken.push_back(pid);
  }
  const std::string announcements = fixture.directory + "/children";
  CHECK(Eventually([&] { return fs::is_empty(announcements); }));
  // Reported after what the thread has still to read.
  const pid_t last = getpid();
  std::ofstream(announcements + "/" + std::to_string(last)) << "last";
  CHECK(Eventually([&] {
    const auto changes = fixture.consumer.Changes();
    return !changes.empty() && changes.back().pid == last;
  }));
  const auto changes = fixture.consumer.Changes();
  CHECK(changes.size() == 2 * taken.size() + 1);
  for (size_t at = 0; at < taken.size(); ++at) {
    CHECK(changes[2 * at].pid == taken[at] && changes[2 * at].running);
    CHECK(changes[2 * at + 1].pid == taken[at] && !changes[2 * at + 1].running);
  }
  for (const int pid : taken) CHECK(waitpid(pid, nullptr, 0) == pid);
}

// Many threads want the one child: one gets it.
void Racing() {
  Fixture fixture;
  int pid = 0;
  CHECK(fixture.Start(&pid).ok());
  std::vector<pid_t> got(8);
  std::vector<std::thread> threads;
  for (pid_t& each : got) threads.emplace_back([&] { each = Fixture::children().Take(fixture.Command()); });
  for (std::thread& thread : threads) thread.join();
  CHECK(std::count(got.begin(), got.end(), pid) == 1);
  CHECK(std::count(got.begin(), got.end(), 0) == 7);
  CHECK(waitpid(pid, nullptr, 0) == pid);
}

const Cases cases = {
    {"warm_taking", Taking},
    {"warm_failing", Failing},
    {"warm_ending", Ending},
    {"warm_dying", Dying},
    {"warm_racing", Racing},
};

}  // namespace

int main(int argc, char** argv) { return RunCase(argc, argv, cases); }
