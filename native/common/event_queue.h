// The way from any thread into one JavaScript environment. Many threads push; the environment's own thread drains
// everything there is in one go, so that a burst of tokens of all streams costs one call into JavaScript.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

#include "response.h"

namespace tritonode {

struct LogLine {
  std::string text;
};

// A child process that the stub wrapper announced, or that ended. `asked`: as far as is known, Triton has ended it.
struct ChildChange {
  int pid = 0;
  bool running = false;
  std::string arguments;
  bool asked = true;
};

// Runs on the environment's thread, e.g. to settle a promise. `context` is the environment, as the addon knows it.
using Task = std::function<void(void* context)>;

using Event = std::variant<Response, LogLine, ChildChange, Task>;

class EventQueue {
 public:
  // `wake` is called with the queue's lock held, at most once between two drains, and never after Close returned.
  // It must not call back into the queue.
  explicit EventQueue(std::function<void()> wake) : wake_(std::move(wake)) {}

  // False when the environment is gone; the event is then destroyed on the caller's thread. Never throws: with no memory
  // left it waits for some, because a lost event would be a stream or a promise that never ends; after kPatience it gives
  // up and returns false.
  bool Push(Event event) noexcept;
  std::vector<Event> Drain() noexcept;
  void Close();
  bool closed() const;

 private:
  // Log lines beyond this many bytes waiting are dropped and counted: a blocked event loop must not cost memory
  // without bound, nor may it stop a child that writes to its log.
  static constexpr size_t kMaxLogBytes = size_t{4} << 20;

  static constexpr std::chrono::seconds kPatience{10};

  bool PushLocked(Event& event);

  mutable std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<Event> events_;
  size_t logBytes_ = 0;
  size_t droppedLines_ = 0;
  bool woken_ = false;
  bool closed_ = false;
};

}  // namespace tritonode
