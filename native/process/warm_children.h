// Python children that have imported everything and wait for a model. Each is started before it is needed, as a child of
// this process like those that Triton starts, and becomes Triton's when Triton wants to start one of its own: the process
// that Triton forks tells what it would have executed (python_backend/child_takeover.h), and that goes to the waiting
// child through a pipe (native/warm_child/preload.cc).
//
// There is one for each environment that is asked for, named by the file that holds it (a key), as long as somebody holds
// the key. It ends with this process: then its pipe closes.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../common/event_queue.h"
#include "../common/status.h"
#include "child_monitor.h"
#include "process_handle.h"

namespace tritonode {

// What Triton is about to execute.
struct ChildCommand {
  std::string directory;
  // Sorted.
  std::vector<std::string> environment;
  // The stub and its arguments (python_backend r24.10, src/stub_launcher.cc): model_path shm_region_name
  // shm_default_byte_size shm_growth_byte_size parent_pid python_lib_dir ipc_control_handle stub_name runtime_modeldir.
  std::vector<std::string> arguments;
};

class WarmChildren {
 public:
  static WarmChildren& Get();

  // For a server that has started: children that are taken are reported to `monitor`.
  void Open(const std::string& privateDirectory, const std::shared_ptr<ChildMonitor>& monitor);
  // Ends all that wait, and none are started from now on. Blocks until they are gone.
  void Close();
  // Kills all that wait; for a process that is about to end.
  void KillAll();

  // The user wants a child of `key`: the path of a file with the environment, for the stub wrapper to read. Counts.
  void Hold(const std::shared_ptr<EventQueue>& user, const std::string& key);
  // Starts the child of a key that is held unless there is one, and waits until it has imported everything. STATE if the
  // server stops, the key is given up or the user ends meanwhile; CHILD with the reason if the child can't import.
  Status Start(const std::shared_ptr<EventQueue>& user, const std::string& key,
               std::vector<std::string> environment, int* pid);
  // Waits until there is no child of this key, or the user's environment ends.
  void WaitForEnd(const std::shared_ptr<EventQueue>& user, const std::string& key);
  // Ends one Hold; the last one ends the child.
  void Release(const std::shared_ptr<EventQueue>& user, const std::string& key);
  // For an environment that is gone.
  void ReleaseAll(const std::shared_ptr<EventQueue>& user);

  // Whether any child waits or is being started.
  bool HasAny();
  // Gives the command to a child that can run it, and returns its pid; 0 if there is none.
  pid_t Take(const ChildCommand& command);

 private:
  struct Child;
  struct Key {
    std::vector<std::shared_ptr<EventQueue>> holders;
    std::shared_ptr<Child> child;
  };

  WarmChildren() = default;
  Status Spawn(const std::string& key, std::vector<std::string> environment, std::shared_ptr<Child>* child);
  void Follow(const std::shared_ptr<Child>& child);
  // With the lock held.
  void EndUnheld();
  bool Fits(const Child& child, const std::string& key, const ChildCommand& command) const;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  std::string directory_;
  std::shared_ptr<ChildMonitor> monitor_;
  std::map<std::string, Key> keys_;
  // Those that are not reaped yet.
  int following_ = 0;
};

}  // namespace tritonode
