// Warm children: Python processes that have imported everything and wait for a model. Each is started before it is
// needed, as a child of this process. When Triton wants to start a child, the process that it forks reports the command
// that it would have executed (python_backend/child_takeover.h); the command is sent to a warm child through a pipe
// (native/warm_child/preload.cc), and that child becomes Triton's.
//
// There is one for each requested environment, as long as the environment has a user. The key of an environment is the
// path of the file that contains it. A warm child ends with this process, because its pipe is closed then.
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

// The command that Triton is about to execute.
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

  // Call this for a server that has started: children that Triton uses are reported to `monitor`.
  void Open(const std::string& privateDirectory, const std::shared_ptr<ChildMonitor>& monitor);
  // Ends all waiting children, and starts none from now on. Blocks until they have ended.
  void Close();
  // Kills all waiting children; for a process that is about to end.
  void KillAll();

  // Adds a use of `key`, the path of a file with the environment, which the stub wrapper reads. Uses are counted.
  void Hold(const std::shared_ptr<EventQueue>& user, const std::string& key);
  // Starts the child of a key in use unless there is one, and waits until it has imported everything. STATE if in the
  // meantime the server stops, the key is released or the user ends; CHILD with the reason if the child can't import.
  Status Start(const std::shared_ptr<EventQueue>& user, const std::string& key,
               std::vector<std::string> environment, int* pid);
  // Waits until there is no child of this key, or the user's environment ends.
  void WaitForEnd(const std::shared_ptr<EventQueue>& user, const std::string& key);
  // Ends one Hold; the last one ends the child.
  void Release(const std::shared_ptr<EventQueue>& user, const std::string& key);
  // Releases all uses of a JavaScript environment that has ended.
  void ReleaseAll(const std::shared_ptr<EventQueue>& user);

  // Whether any child waits or is being started.
  bool HasAny();
  // Sends the command to a warm child that can run it, and returns its pid; 0 if there is none.
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
  // Children that are not reaped yet.
  int following_ = 0;
};

}  // namespace tritonode
