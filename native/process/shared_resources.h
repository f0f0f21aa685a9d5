// What the environments of this process share, with a count of its users: a loaded model, a registered repository. The
// first user sets it up, later ones share it, the last one takes it down; while one of them is at it the others wait.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../common/event_queue.h"
#include "../common/status.h"

namespace tritonode {

// What Acquire found.
struct AcquiredResource {
  // The caller must set it up and then call Settle; nobody else gets it meanwhile.
  bool mustSetUp = false;
  // What the one who set it up said of it.
  std::string description;
};

class SharedResources {
 public:
  static SharedResources& Get();

  // Joins the users of `name`. Waits for one that is being set up or taken down. IN_USE if it was set up with another
  // `key`, with its description as the message; STATE if the user's environment ends meanwhile. Blocks.
  Status Acquire(const std::shared_ptr<EventQueue>& user, const std::string& name, const std::string& key,
                 AcquiredResource* acquired);

  // For a user that is in: gets the turn to set it up again, and must call Settle. Waits for another one's turn to end;
  // false if the user is not in any more. Blocks.
  bool Retake(const std::shared_ptr<EventQueue>& user, const std::string& name);

  // Ends the caller's turn. `ready` false: it is not there (any more), and whoever still uses it finds out by itself; if
  // that leaves no user but the caller, it is forgotten.
  void Settle(const std::shared_ptr<EventQueue>& user, const std::string& name, bool ready,
              const std::string& description);

  // Leaves. True if the caller was the last: it must take it down and then call Settle with `ready` false. For a user
  // that is not in, false. Blocks.
  bool Release(const std::shared_ptr<EventQueue>& user, const std::string& name);

  // For an environment that is gone. `takeDown` is called without a lock held for each that nobody uses any more. Blocks.
  void ReleaseAll(const std::shared_ptr<EventQueue>& user, const std::function<void(const std::string& name)>& takeDown);

 private:
  struct Resource {
    std::string key;
    std::string description;
    // Once for each Acquire.
    std::vector<std::shared_ptr<EventQueue>> users;
    // Whose turn it is to set it up or to take it down.
    std::shared_ptr<EventQueue> busy;
  };

  SharedResources() = default;
  // The resource, when nobody is busy with it; null when there is none (any more).
  Resource* Wait(std::unique_lock<std::mutex>& lock, const std::string& name, const EventQueue& user);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Resource> resources_;
};

}  // namespace tritonode
