#include "executor.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace tritonode {
namespace {

constexpr std::chrono::seconds kIdle{5};

// Leaked on purpose: detached threads may still be inside Triton while static destructors run.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> jobs;
  size_t idle = 0;
};

State& GetState() {
  static State& state = *new State;
  return state;
}

void Work(State& state) {
  std::unique_lock<std::mutex> lock(state.mutex);
  for (;;) {
    if (state.jobs.empty()) {
      ++state.idle;
      const bool woken = state.changed.wait_for(lock, kIdle, [&] { return !state.jobs.empty(); });
      --state.idle;
      if (!woken) return;
    }
    std::function<void()> job = std::move(state.jobs.front());
    state.jobs.pop_front();
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
  }
}

}  // namespace

bool RunBlocking(std::function<void()> job) {
  State& state = GetState();
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.jobs.push_back(std::move(job));
  if (state.idle >= state.jobs.size()) {
    state.changed.notify_one();
    return true;
  }
  try {
    std::thread([&state] { Work(state); }).detach();
  } catch (const std::system_error&) {
    state.jobs.pop_back();
    return false;
  }
  return true;
}

}  // namespace tritonode
