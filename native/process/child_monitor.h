// One native thread that watches what the server's children do: their log FIFO, the folder in which the stub wrapper
// announces each child, and the children's lives (pidfd). It sleeps in epoll, and polls only where the system gives it no
// pidfd (process_handle.h).
//
// Native and not Node's, because the pipe must be drained while the event loop is blocked or the worker that started the
// server is gone: a full pipe would stop the engine in the middle of a log line.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../common/event_queue.h"
#include "../common/status.h"

namespace tritonode {

class ChildMonitor {
 public:
  // Makes the FIFO `logPath` (mode 0600) and watches `childrenDirectory`: a file there is named after a pid and holds
  // the stub's arguments. The directory must exist.
  static Status Start(const std::string& logPath, const std::string& childrenDirectory,
                      std::shared_ptr<ChildMonitor>* monitor);
  virtual ~ChildMonitor() = default;

  // From now on the queue gets log lines and child changes; children that run already are reported at once.
  virtual void Subscribe(std::shared_ptr<EventQueue> queue) = 0;
  virtual void Unsubscribe(const EventQueue* queue) = 0;
  // Watches a process that no wrapper announced. False if there is no such process.
  virtual bool Watch(int pid, const std::string& arguments) = 0;
  // Announces a child of this process in `childrenDirectory`, as a wrapper does for itself, and watches it. However soon it
  // ends, its life is reported once. The file is missing if it could not be written.
  virtual void Announce(int pid, const std::string& arguments) = 0;
  // Pids of announced children that run.
  virtual std::vector<int> Children() = 0;
  // Kills one of them, with its process group. Nothing happens for another pid.
  virtual void End(int pid) = 0;
  // Kills all of them, and from now on each one that is announced.
  virtual void EndAll() = 0;
  // Ends the thread after delivering what is in the pipe.
  virtual void Stop() = 0;
};

}  // namespace tritonode
