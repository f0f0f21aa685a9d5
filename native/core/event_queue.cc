#include "event_queue.h"

#include <utility>

namespace tritonode {

bool EventQueue::Push(Event event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return false;
  if (const auto* line = std::get_if<LogLine>(&event)) {
    if (logBytes_ + line->text.size() > kMaxLogBytes) {
      ++droppedLines_;
      return true;
    }
    logBytes_ += line->text.size();
  }
  events_.push_back(std::move(event));
  if (!woken_) {
    woken_ = true;
    wake_();
  }
  return true;
}

std::vector<Event> EventQueue::Drain() {
  std::vector<Event> events;
  const std::lock_guard<std::mutex> lock(mutex_);
  woken_ = false;
  events.swap(events_);
  if (droppedLines_ > 0) {
    events.push_back(LogLine{"tritonode: " + std::to_string(droppedLines_) + " log lines dropped: the event loop was busy"});
    droppedLines_ = 0;
  }
  logBytes_ = 0;
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
