#include "event_queue.h"

#include <new>
#include <thread>
#include <utility>

namespace tritonode {

bool EventQueue::Push(Event event) noexcept {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      return PushLocked(event);
    } catch (const std::bad_alloc&) {
      // Not locked meanwhile: the environment frees memory by draining.
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

bool EventQueue::PushLocked(Event& event) {
  if (closed_) return false;
  const auto* line = std::get_if<LogLine>(&event);
  const size_t size = line == nullptr ? 0 : line->text.size();
  if (logBytes_ + size > kMaxLogBytes) {
    ++droppedLines_;
    return true;
  }
  // Leaves the event as it was if it throws.
  events_.push_back(std::move(event));
  logBytes_ += size;
  if (!woken_) {
    woken_ = true;
    wake_();
  }
  return true;
}

std::vector<Event> EventQueue::Drain() noexcept {
  std::vector<Event> events;
  const std::lock_guard<std::mutex> lock(mutex_);
  woken_ = false;
  events.swap(events_);
  logBytes_ = 0;
  if (droppedLines_ > 0) {
    try {
      events.push_back(
          LogLine{"tritonode: " + std::to_string(droppedLines_) + " log lines dropped: the event loop was busy"});
      droppedLines_ = 0;
    } catch (const std::bad_alloc&) {
      // Told with a later one.
    }
  }
  return events;
}

void EventQueue::Close() {
  std::vector<Event> events;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    wake_ = nullptr;
    events.swap(events_);
  }
}

bool EventQueue::closed() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return closed_;
}

}  // namespace tritonode
