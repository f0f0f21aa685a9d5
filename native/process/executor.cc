#include "executor.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
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
    try {
      job();
    } catch (const std::exception&) {
      // A job that has something to say about it catches it itself.
    }
    job = nullptr;
    lock.lock();
  }
}

}  // namespace

bool RunBlocking(std::function<void()> job) noexcept {
  try {
    State& state = GetState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.jobs.push_back(std::move(job));
    if (state.idle >= state.jobs.size()) {
      state.changed.notify_one();
      return true;
    }
    try {
      std::thread([&state] { Work(state); }).detach();
    } catch (const std::exception&) {
      state.jobs.pop_back();
      throw;
    }
    return true;
  } catch (const std::exception&) {
    // No thread, or no memory.
    return false;
  }
}

}  // namespace tritonode
