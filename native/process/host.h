// The one server of this process and who uses it. JavaScript environments (the main thread, workers) come and go; the
// server starts with the first and stops with the last.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../common/event_queue.h"
#include "child_monitor.h"
#include "../triton/server.h"
#include "../triton/server_options.h"
#include "../common/status.h"

namespace tritonode {

struct StartOptions {
  std::string library;
  std::string dependencyDirectory;
  // 0700, made by the caller, with backends/ and children/ in it; log is made here.
  std::string privateDirectory;
  std::string shmPrefix;
  // libtriton_python.so, or empty.
  std::string pythonBackend;
  // Repairs of it to leave out, by name (python_backend/repairs.h).
  std::vector<std::string> repairsOff;
  // Handed to every later environment, which must know what the first one started.
  std::string description;
  ServerOptions server;
};

// What Acquire found.
struct Acquired {
  // The caller is the first: it must go on with Start, or with Release if it can't.
  bool mustStart = false;
  std::string description;
};

// All of these block; run them on a thread of their own. `user` is the environment's queue.
class Host {
 public:
  static Host& Get();

  // Joins the running server (once more, if the user is in already; each Acquire needs its Release), waits for one that
  // is starting or stopping, or gives the caller the turn to start it.
  Status Acquire(const std::shared_ptr<EventQueue>& user, Acquired* acquired);
  Status Start(const std::shared_ptr<EventQueue>& user, const StartOptions& options);
  // Leaves the server; the last one stops it. `stopped` tells whether this was the last, and then the status is that of
  // the stop. For a user that is not in, nothing happens.
  Status Release(const std::shared_ptr<EventQueue>& user, bool* stopped);

  // For an environment that is gone, however often it acquired.
  void ReleaseAll(const std::shared_ptr<EventQueue>& user);

  // The process is about to end (`noReturn`: exit() runs already): waits for a start or a stop that is under way, within
  // one deadline however often this is called, and ends the children.
  void PrepareForExit(bool noReturn);

  // Something inside Triton will never end, because its child is dead: a load, or a request of a Triton that lost-replies
  // (python_backend/repairs.h) is not for. Such a server can't be deleted; stopping gives up after a second.
  void NoteStuck();

  // Null unless running.
  std::shared_ptr<Server> server();
  // Null only while the server has no children: it is there while the server starts and stops.
  std::shared_ptr<ChildMonitor> monitor();

 private:
  Host() = default;
  struct State;
  static State& state();
};

}  // namespace tritonode
